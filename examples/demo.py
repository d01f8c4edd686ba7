"""Kill a training with SIGKILL, start it again, and compare it with one that was not killed.

Runs `digits.py` without an interruption. Then runs it again, kills it in the middle of an
epoch, and starts it once more. Compares the results and lists every checkpoint: why it was
saved, and why it was kept or removed. All output is read from files that the trainings wrote.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
RUNS = Path("runs") / "demo"
KILL_AFTER_STEP = 100
PATIENCE = 120

console = Console()


def main():
    """Run all parts; exit with 1 if a result is not as promised."""
    began = time.monotonic()
    shutil.rmtree(RUNS, ignore_errors=True)
    uninterrupted, interrupted = RUNS / "uninterrupted", RUNS / "interrupted"

    console.rule("1. a training without an interruption")
    finish(train(uninterrupted))

    console.rule("2. the same training, killed with SIGKILL in the middle of an epoch")
    kill_in_mid_epoch(train(interrupted), interrupted)

    console.rule("3. the same command again: it resumes from the latest checkpoint")
    finish(train(interrupted))

    console.rule("4. results")
    console.print(checkpoint_table(interrupted))
    results = [show_accuracy(interrupted), show_digests(uninterrupted, interrupted)]
    console.print(f"{time.monotonic() - began:.0f} s in total; the files are in {interrupted}")
    sys.exit(0 if all(results) else 1)


def train(directory):
    """Start the training as a user would."""
    return subprocess.Popen([sys.executable, HERE / "digits.py", "--directory", directory])


def finish(process):
    """Wait for a training; exit if it fails."""
    if process.wait() != 0:
        sys.exit(f"the training ended with exit status {process.returncode}")


def kill_in_mid_epoch(process, directory):
    """Wait for a verified checkpoint from the middle of an epoch, then kill the training."""
    deadline = time.monotonic() + PATIENCE
    while not verified_in_mid_epoch(directory):
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit("the training ended before it could be killed")
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    console.print(f"killed: exit status {process.returncode}", style="bold red")


def verified_in_mid_epoch(directory):
    """Return whether the newest verified checkpoint is from the middle of an epoch."""
    manifest = read_manifest(directory / "latest")
    return (
        manifest is not None
        and manifest["moment"]["step"] >= KILL_AFTER_STEP
        and manifest["moment"]["batch"] > 0
    )


def read_manifest(checkpoint):
    """Return the manifest of a checkpoint, None if there is none yet."""
    try:
        return json.loads((checkpoint / "manifest.json").read_text())
    except FileNotFoundError:
        return None


def checkpoint_table(directory):
    """Return a table of all checkpoints: saved, verified, kept or removed, each with its reason."""
    rows = {}
    for line in (directory / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        kind = event["kind"]
        if kind == "retention":
            for name, reasons in event["keep"].items():
                rows[name]["result"] = "kept: " + "; ".join(reasons)
            continue
        row = rows.setdefault(event.get("name", ""), {"saved": "", "verified": "", "result": ""})
        if kind == "saved":
            row["saved"] = "; ".join(event["reasons"])
        elif kind == "verified":
            row["verified"] = f"{event['depth']} {event['note']}".strip()
        elif kind == "removed":
            row["result"] = f"removed: {event['reason']}"
        elif kind == "replaced":
            row["result"] = f"not written: {event['why']}"
        elif kind == "skipped":
            row["result"] += f" (requested again: {'; '.join(event['reasons'])})"
        elif kind == "resumed":
            row["verified"] += f"; RESUMED FROM ({event['level']})"
    rows.pop("", None)
    table = Table("checkpoint", "reason to save", "verified to depth", "result")
    for name, row in sorted(rows.items()):
        table.add_row(name, row["saved"], row["verified"], row["result"])
    return table


def show_accuracy(directory):
    """Print the accuracy of the best model, loaded with stock Keras in another process."""
    model = directory / "best" / "model.h5"
    run = [sys.executable, HERE / "stock_evaluate.py", model]
    accuracy = float(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
    console.print(f"best/model.h5, loaded with stock Keras alone: accuracy {accuracy:.2%}")
    return accuracy >= 0.97


def show_digests(uninterrupted, interrupted):
    """Print whether both trainings ended with the same weights and optimizer variables."""
    manifests = [read_manifest(directory / "latest") for directory in (uninterrupted, interrupted)]
    variables = [
        {(tensor["role"], tensor["index"]): tensor["digest"] for tensor in manifest["tensors"]}
        for manifest in manifests
    ]
    steps = [manifest["moment"]["step"] for manifest in manifests]
    same = variables[0] == variables[1] and steps[0] == steps[1]
    word = "[green]the same[/]" if same else "[red]NOT the same[/]"
    console.print(
        f"after step {steps[0]} (uninterrupted) and {steps[1]} (killed and resumed): {word} "
        f"digests of all {len(variables[0])} weights, optimizer variables, metrics and seeds"
    )
    return same


if __name__ == "__main__":
    main()
