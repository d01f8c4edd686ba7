"""Load: saves at full speed, crowded directories, two trainings at one, readers in a loop.

full speed   `count` saves of a tiny model in one `fit`, as fast as it goes
crowded      a tenth as many checkpoints in one directory: listed, resumed from, pruned
two          a second training at a directory in use, and after SIGKILL of the first
readers      `savekit list` and `savekit verify` while a training saves and prunes
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from keras_savekit.save.verifier import UNVERIFIED
from keras_savekit.store.manifest import MANIFEST, VERIFICATION
from keras_savekit.store.manifest_json import to_json
from keras_savekit.store.naming import CheckpointName
from keras_savekit.store.prepare import prepare
from keras_savekit.store.run import RunDirectory
from torture.forking import forked, ready_to_fork, wait
from torture.score import Score

FULL = 100_000
PATIENCE = 3600
GROWTH = 64 * 2**20  # bytes a process may grow from the first tenth of its saves to the last
LISTED = 1.0  # seconds of a processor for `savekit list`, beyond the start of Python
WAITING = 1 + 1 + 1 + UNVERIFIED  # being written, behind it, being verified, behind that
READ = ("list", "verify --depth bytes", "list --json", "verify")

FLAT = (
    "saves at full speed: the queue stays bounded, memory stays flat, each save is done or reported"
)
CROWDED = (
    "many checkpoints in a directory: a time limit holds for listing and resuming, and they are "
    "pruned to the rules"
)
TWO = (
    "a second training in a directory is refused with one error, and starts once the "
    "directory is free"
)
READERS = (
    "`savekit list` and `savekit verify` during training and pruning: no error, and "
    "the training result is unchanged"
)


def run(seed: int, count: int, scratch: Path) -> list[Score]:
    """`count` saves at full speed, and the rest as much smaller as it is to be in full."""
    command = [sys.executable, "-m", "torture.load", str(seed), str(count), str(scratch)]
    subprocess.run(command, cwd=Path(__file__).parent.parent, check=True)
    return [Score(**each) for each in json.loads((scratch / "scores.json").read_text())]


# In a child: one training.


def train(directory: Path, steps: int, slowly: float = 0.0, **plan: str) -> None:
    """A tiny model, saved after every step; what was seen goes beside the directory."""
    import keras
    import numpy as np
    from training_builders import digest

    import keras_savekit as sk

    class RequestMonitor(keras.callbacks.Callback):
        """How much memory is taken and how much waits, after each tenth of the steps."""

        step, memory, waiting = 0, (), 0

        def on_train_batch_end(self, batch, logs=None):
            self.step += 1
            time.sleep(slowly)
            self.waiting = max(self.waiting, kit.session._pipeline.pending)
            if self.step % max(1, steps // 10) == 0:
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                self.memory += (pages * os.sysconf("SC_PAGE_SIZE"),)

        def get_state(self):
            return {}

        def set_state(self, state):
            pass

    keras.utils.set_random_seed(7)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1e-3), "mse")
    x = np.linspace(-1, 1, steps, dtype=np.float32).reshape(-1, 1)
    data = sk.resumable(x, 2 * x, batch_size=1, seed=5)
    asked = {"name": "p", "when": "every 1 steps", "when_busy": "wait", "verify": "bytes"}
    kit = sk.SaveKit({"plans": [asked | plan]}, directory=directory, data=data)
    watch, began = RequestMonitor(), time.monotonic()
    model.fit(data, shuffle=False, epochs=1, verbose=0, callbacks=[watch, kit])
    said = {
        "digest": digest(model),
        "memory": watch.memory,
        "waiting": watch.waiting,
        "seconds": time.monotonic() - began,
        "resumed": kit.resumed.name if kit.resumed else None,
    }
    directory.with_suffix(".json").write_text(json.dumps(said))


# In the process that forks.


def started(directory: Path, steps: int, **how) -> int:
    return forked(lambda: train(directory, steps, **how), directory.with_suffix(".error"))


def finished(pid: int, directory: Path) -> dict:
    """What the training said. Raises if it failed."""
    if wait(pid, PATIENCE) != 0:
        raise RuntimeError(directory.with_suffix(".error").read_text())
    said: dict = json.loads(directory.with_suffix(".json").read_text())
    return said


def computed(*arguments: str) -> tuple[float, subprocess.CompletedProcess]:
    """What a Python process says, and its seconds of a processor: others may be busy too."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, done


def slow_list(directory: Path) -> str:
    """Whether `savekit list` fails or takes too long, in words; the best of three counts."""
    best = float("inf")
    for _ in range(3):
        python, _done = computed("-c", "pass")
        seconds, listed = computed("-m", "keras_savekit", "list", str(directory))
        if listed.returncode != 0:
            return f"`savekit list` ended with {listed.returncode}: {listed.stderr}"
        best = min(best, seconds - python)
    return f"`savekit list` takes {best:.2f} s" if best > LISTED else ""


def full_speed(place: Path, count: int) -> Score:
    directory = place / "full-speed"
    said = finished(started(directory, count, keep="last 3"), directory)
    wrong = [*wrong_with(directory, said, count), slow_list(directory)]
    return Score(FLAT, count, tuple(filter(None, wrong)))


def wrong_with(directory: Path, said: dict, count: int) -> list[str]:
    """What a training that saved so often, and keeps the last 3, may not have come to."""
    run, wrong = RunDirectory(directory), []
    if said["memory"][-1] - said["memory"][0] > GROWTH:
        wrong.append(f"memory grew: {said['memory']}")
    if said["waiting"] > WAITING:
        wrong.append(f"{said['waiting']} checkpoints were waiting")
    kinds = Counter(event["kind"] for event in run.events.read())
    found = [kinds[each] for each in ("saved", "verified", "removed", "failed", "unverified")]
    if found != [count, count, count - 3, 0, 0]:
        wrong.append(f"{count} saves were asked for, and there are {kinds}")
    if run.names() != [str(CheckpointName(count - back, "p")) for back in (2, 1, 0)]:
        wrong.append(f"`last 3` left {run.names()[:9]}")
    return wrong


def copies(source: Path, directory: Path, count: int) -> None:
    """A directory of `count` checkpoints: one, at one step after another."""
    one = next(each for each in RunDirectory(source).checkpoints() if each.status == "verified")
    run = RunDirectory(directory)
    prepare(run)
    for step in range(1, count + 1):
        moment = replace(one.manifest.moment, batch=step, step=step)
        path = run.checkpoints_path / str(CheckpointName(step, "p"))
        path.mkdir()
        for entry in one.manifest.files:
            os.link(one.path / entry.name, path / entry.name)
        (path / MANIFEST).write_bytes(to_json(replace(one.manifest, moment=moment)))
        shutil.copy(one.path / VERIFICATION, path / VERIFICATION)


def crowded(place: Path, count: int) -> Score:
    small, directory = place / "small", place / "crowded"
    pid = started(small, count + 2, keep="last 3")  # of the training that goes on from them
    assert wait(pid, PATIENCE, lambda: RunDirectory(small).linked("latest") is not None) is None
    os.kill(pid, signal.SIGKILL)
    wait(pid, PATIENCE)
    copies(small, directory, count)
    wrong = [slow_list(directory)]
    seconds, planned = computed("-m", "keras_savekit", "resume-plan", "--json", str(directory))
    newest = str(CheckpointName(count, "p"))
    if planned.returncode != 0 or json.loads(planned.stdout)["resume_from"]["name"] != newest:
        wrong.append(f"`savekit resume-plan` says {planned.stdout} {planned.stderr}")
    elif seconds > 3 * LISTED:
        wrong.append(f"`savekit resume-plan` takes {seconds:.1f} s")
    said = finished(started(directory, count + 2, keep="last 3"), directory)
    if said["resumed"] != newest:
        wrong.append(f"went on from {said['resumed']}, and {newest} was the newest")
    left = RunDirectory(directory).names()
    if left != [str(CheckpointName(count + after, "p")) for after in (0, 1, 2)]:
        wrong.append(f"`last 3` of {count + 2} left {len(left)}: {left[:9]}")
    return Score(CROWDED, count, tuple(filter(None, wrong)))


def at_least(directory: Path, checkpoints: int) -> Callable[[], bool]:
    """Whether so many have been verified and removed since, or stand."""
    newest = str(CheckpointName(checkpoints, "p"))
    return lambda: max(RunDirectory(directory).names(), default="") >= newest


def two(place: Path, tries: int) -> Score:
    wrong = []
    for number in range(tries):
        directory = place / f"two-{number}"
        first = started(directory, 10_000, slowly=0.01, keep="last 3")
        assert wait(first, PATIENCE, at_least(directory, 1)) is None
        second = place / f"second-{number}"
        pid = forked(lambda at=directory: train(at, 9, keep="last 3"), second)
        if wait(pid, PATIENCE) == 0:
            wrong.append(f"{number}: two trainings in one directory")
        else:
            told = second.read_text().strip().splitlines()[-3:]
            if "DirectoryInUseError" not in "".join(told) or str(first) not in "".join(told):
                wrong.append(f"{number}: the second was told {told}")
        before = int(max(RunDirectory(directory).names())[:9])
        if wait(first, PATIENCE, at_least(directory, before + 3)) is not None:
            wrong.append(f"{number}: the first did not go on")
        os.kill(first, signal.SIGKILL)
        wait(first, PATIENCE)
        newest = max(RunDirectory(directory).names())
        # As it was killed there, with as many steps as it would have had.
        third = started(directory, 10_000, keep="last 3")
        after = str(CheckpointName(int(newest[:9]) + 2, "p"))
        if wait(third, PATIENCE, at_least(directory, int(after[:9]))) is not None:
            wrong.append(f"{number}: {directory.with_suffix('.error').read_text()}")
        else:
            os.kill(third, signal.SIGKILL)
            wait(third, PATIENCE)
        resumed = [each for each in RunDirectory(directory).events.read() if "level" in each]
        if [each["name"] for each in resumed] != [newest]:
            wrong.append(f"{number}: {newest} was the newest, and the next {resumed}")
    return Score(TWO, tries, tuple(wrong))


def readers(place: Path, steps: int) -> Score:
    """Savekit's commands again and again, while a training goes on beside."""
    alone, directory = place / "alone", place / "read"
    undisturbed = finished(started(alone, steps, keep="last 2"), alone)
    pid = started(directory, steps, keep="last 2")
    wrong, reads = [], 0
    wait(pid, PATIENCE, at_least(directory, 1))
    while reads == 0 or wait(pid, 0) is None:
        command = READ[reads % len(READ)]
        reads += 1
        _, done = computed("-m", "keras_savekit", *command.split(), str(directory))
        if done.returncode != 0 or "rror" in done.stderr:
            wrong.append(f"{command} ended with {done.returncode}: {done.stdout} {done.stderr}")
    said = finished(pid, directory)
    if said["digest"] != undisturbed["digest"]:
        wrong.append("the training ended elsewhere")
    if len(RunDirectory(directory).names()) != 2:
        wrong.append(f"`last 2` left {RunDirectory(directory).names()}")
    return Score(READERS, reads, tuple(wrong))


def main(seed: str, count: str, scratch: str) -> None:
    place, saves = Path(scratch), int(count)
    ready_to_fork()
    scores = [
        full_speed(place, saves),
        crowded(place, max(20, saves // 10)),
        two(place, max(1, saves // 5000)),
        readers(place, max(30, saves // 50)),
    ]
    (place / "scores.json").write_text(json.dumps([asdict(each) for each in scores]))


if __name__ == "__main__":
    main(*sys.argv[1:])
