"""The main job, shown: a training killed with SIGKILL goes on and ends where it would have ended.

Runs `digits.py` twice: once undisturbed, once killed in the middle of an epoch
and started again. Then compares the two, and lists what became of every
checkpoint and why. Everything it says is read from files that the training left.
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
    """Run all parts; exit 1 if a promise did not hold."""
    began = time.monotonic()
    shutil.rmtree(RUNS, ignore_errors=True)
    undisturbed, interrupted = RUNS / "undisturbed", RUNS / "interrupted"

    console.rule("1. a training that nothing disturbs")
    finish(train(undisturbed))

    console.rule("2. the same, killed with SIGKILL in the middle of an epoch")
    kill_in_mid_epoch(train(interrupted), interrupted)

    console.rule("3. the same command again: it goes on by itself")
    finish(train(interrupted))

    console.rule("4. what came out")
    console.print(checkpoint_table(interrupted))
    good = [show_accuracy(interrupted), show_digests(undisturbed, interrupted)]
    console.print(f"{time.monotonic() - began:.0f} s in all; look around in {interrupted}")
    sys.exit(0 if all(good) else 1)


def train(directory):
    """Start the training as a user would."""
    return subprocess.Popen([sys.executable, HERE / "digits.py", "--directory", directory])


def finish(process):
    """Wait for a training that should end well."""
    if process.wait() != 0:
        sys.exit(f"the training ended with exit status {process.returncode}")


def kill_in_mid_epoch(process, directory):
    """Wait until a checkpoint from within an epoch is verified, then kill."""
    deadline = time.monotonic() + PATIENCE
    while not verified_in_mid_epoch(directory):
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit("the training ended before it could be killed")
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    console.print(f"killed: exit status {process.returncode}", style="bold red")


def verified_in_mid_epoch(directory):
    """Whether the newest checkpoint is verified and stands between two epochs' ends."""
    manifest = read_manifest(directory / "latest")
    return (
        manifest is not None
        and manifest["moment"]["step"] >= KILL_AFTER_STEP
        and manifest["moment"]["batch"] > 0
    )


def read_manifest(checkpoint):
    """A checkpoint's manifest, None while there is none."""
    try:
        return json.loads((checkpoint / "manifest.json").read_text())
    except FileNotFoundError:
        return None


def checkpoint_table(directory):
    """What was saved, verified, kept, removed and resumed from, each with its reason."""
    rows = {}
    for line in (directory / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        kind = event["kind"]
        if kind == "retention":
            for name, reasons in event["keep"].items():
                rows[name]["fate"] = "kept: " + "; ".join(reasons)
            continue
        row = rows.setdefault(event.get("name", ""), {"saved": "", "verified": "", "fate": ""})
        if kind == "saved":
            row["saved"] = "; ".join(event["reasons"])
        elif kind == "verified":
            row["verified"] = f"{event['depth']} {event['note']}".strip()
        elif kind == "removed":
            row["fate"] = f"removed: {event['reason']}"
        elif kind == "replaced":
            row["fate"] = f"not written: {event['why']}"
        elif kind == "skipped":
            row["fate"] += f" (asked for again: {'; '.join(event['reasons'])})"
        elif kind == "resumed":
            row["verified"] += f"; RESUMED FROM ({event['level']})"
    rows.pop("", None)
    table = Table("checkpoint", "saved because", "verified to depth", "what became of it")
    for name, row in sorted(rows.items()):
        table.add_row(name, row["saved"], row["verified"], row["fate"])
    return table


def show_accuracy(directory):
    """Accuracy of the best model, loaded by stock Keras in a process without this package."""
    model = directory / "best" / "model.h5"
    run = [sys.executable, HERE / "stock_evaluate.py", model]
    accuracy = float(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
    console.print(f"best/model.h5, loaded by stock Keras alone: {accuracy:.2%} of held-out digits")
    return accuracy >= 0.97


def show_digests(undisturbed, interrupted):
    """Whether both trainings ended with the same weights and optimizer variables."""
    ends = [read_manifest(directory / "latest") for directory in (undisturbed, interrupted)]
    variables = [
        {(each["role"], each["index"]): each["digest"] for each in manifest["tensors"]}
        for manifest in ends
    ]
    steps = [manifest["moment"]["step"] for manifest in ends]
    same = variables[0] == variables[1] and steps[0] == steps[1]
    word = "[green]the same[/]" if same else "[red]NOT the same[/]"
    console.print(
        f"after step {steps[0]} (undisturbed) and {steps[1]} (killed and resumed): {word} digests "
        f"of all {len(variables[0])} weights, optimizer variables, metrics and seeds"
    )
    return same


if __name__ == "__main__":
    main()
