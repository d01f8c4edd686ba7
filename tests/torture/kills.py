"""SIGKILL to a real `fit`, at any instant and at any call of the system.

Trainings of `exactness`, saved after every step, are killed, resumed and killed
again before they are let finish. After each kill the directory is looked at; in
the end the training must be, bit for bit, the one that nothing disturbed. The first
kill of each training is at a call that the first saves make of the disk: before it,
within it or after it, until each of these was met.

A process imports TensorFlow once, runs none of it, and forks a child for each
try, which then takes a second or two, where a fresh process would take five more.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from keras_savekit.store import syscalls
from keras_savekit.store.run import RunDirectory
from keras_savekit.verify.depths import verify_files
from torture.forking import forked, ready_to_fork, wait
from torture.score import Score

FULL = 1000
PER_WORKER = 20  # kills that are worth a process which imports TensorFlow
PATIENCE = 120  # seconds that a session may take, which takes two
CHAIN = 8  # kills of one training, before it is let finish
FIRST = (
    80  # calls: a new directory, a save, its verification, the links to it, most of another save
)
HOW = ("before", "within", "after")
MODELS = ("dropout and batch normalization", "learning rate schedule")
CALLS = (
    "openat", "write", "pwrite64", "fsync", "ftruncate", "rename",
    "unlinkat", "mkdir", "rmdir", "symlink", "close",
)  # fmt: skip

WHOLE = (
    "after SIGKILL the directory opens, every listed checkpoint is complete, no good "
    "checkpoint is lost"
)
EACH = "the same after SIGKILL before, during and after each disk call of the first saves"
EXACT = "trainings that are killed and resumed repeatedly end with the same result, bit for bit"


def run(seed: int, count: int, scratch: Path) -> list[Score]:
    """Kills `count` sessions of trainings, on as many processes as there are cores."""
    workers = min(len(os.sched_getaffinity(0)), -(-count // PER_WORKER))
    started = []
    for number in range(workers):
        place = scratch / f"worker-{number}"
        place.mkdir()
        share = count // workers + (number < count % workers)
        arguments = [str(each) for each in (seed, number, workers, share, place)]
        command = [sys.executable, "-m", "torture.kills", *arguments]
        started.append((place, subprocess.Popen(command, cwd=Path(__file__).parent.parent)))
    tries: Counter[str] = Counter()
    failures: dict[str, tuple[str, ...]] = {WHOLE: (), EACH: (), EXACT: ()}
    for place, process in started:
        if process.wait() != 0:
            raise RuntimeError(f"{place.name} ended with {process.returncode}")
        for each in json.loads((place / "scores.json").read_text()):
            tries[each["promise"]] += each["tries"]
            failures[each["promise"]] += tuple(each["failures"])
    return [Score(promise, tries[promise], found) for promise, found in failures.items()]


def wrong_with(directory: Path) -> list[str]:
    """What no kill may leave behind, in words."""
    run = RunDirectory(directory)
    scan = run.scan()
    listed = {each.name for each in scan.checkpoints}
    wrong = [f"{name} is listed and no checkpoint: {error.what}" for name, error in scan.damaged]
    for each in scan.checkpoints:
        findings = verify_files(each.path, "structure", 0.0).findings
        wrong += [f"{each.name} is listed and not whole: {finding}" for finding in findings]
    wrong += [f"{name} was set aside" for name, _ in run.quarantined()]
    log = run.events.read()
    # What retention lets go is in the log before it goes.
    let_go = {name for each in log if each["kind"] == "retention" for name in each["remove"]}
    done = {each["name"]: each["kind"] for each in log if each["kind"] in ("saved", "verified")}
    wrong += [
        f"{name} was {kind} and is lost"
        for name, kind in done.items()
        if name not in listed | let_go
    ]
    newest = max(listed, default="")
    if newest < max(done, default=""):
        wrong.append(f"{max(done)} was published, and the newest listed is {newest or 'none'}")
    if (directory / "latest").is_symlink() and run.linked("latest") not in listed:
        wrong.append("`latest` leads to nothing that is listed")
    return wrong


@dataclass(frozen=True)
class Kill:
    """How a session is to die.

    kind: `instant`, `saving` (the same, counted from the first event that is logged), `seam`
        (at a call of `store.syscalls`) or `strace` (at one of the system).
    at: seconds, or which call.
    """

    kind: str
    at: float
    call: str = ""
    how: str = "before"

    def __str__(self) -> str:
        return {
            "instant": f"after {self.at:.3f} s",
            "saving": f"{self.at:.3f} s after its first event",
            "seam": f"{self.how} call {self.at:.0f} of the directory",
            "strace": f"at {self.call} number {self.at:.0f} of a thread",
        }[self.kind]


class Seam:
    """Counts the calls of a run's directory, on all threads, and dies at one of them."""

    def __init__(self, kill: Kill | None) -> None:
        self.calls = 0
        self.kill = kill if kill is not None and kill.kind == "seam" else None

    def __call__(self, name: str, call: Callable, *arguments):
        self.calls += 1
        if self.kill is None or self.calls != self.kill.at:
            return call(*arguments)
        if self.kill.how == "within" and name in ("write", "pwrite"):
            descriptor, data, *offset = arguments
            call(descriptor, data[: len(data) // 2], *offset)
        elif self.kill.how == "after":
            call(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("it lives")


@dataclass
class Whole:
    """A training that nothing disturbs: how it ends, and what it takes."""

    said: dict
    steps: int
    seconds: float
    saving: float  # seconds from the first event to the end
    calls: int


@dataclass
class Worker:
    """Everything that happens in the process that forks.

    firsts: how trainings are killed first, from the last on.
    """

    drawn: random.Random
    place: Path
    firsts: list[Kill]
    wholes: dict[str, Whole] = field(default_factory=dict)
    kills: int = 0
    chains: int = 0
    met: int = 0  # of `firsts`
    unfit: list[str] = field(default_factory=list)
    unfit_at_first: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)

    def work(self, count: int) -> list[Score]:
        while self.kills < count and len(self.unfit) < 20:
            self.chain(min(count - self.kills, self.drawn.randint(1, CHAIN)))
        return [
            Score(WHOLE, self.kills, tuple(self.unfit)),
            Score(EACH, self.met, tuple(self.unfit_at_first)),
            Score(EXACT, self.chains, tuple(self.differing)),
        ]

    def whole(self, model: str) -> Whole:
        """The training that nothing disturbs, done when it is first asked for."""
        if model not in self.wholes:
            directory = self.place / f"whole-{MODELS.index(model)}"
            began = time.monotonic()
            self.session(model, directory, None, {})
            log = RunDirectory(directory).events.read()
            self.wholes[model] = Whole(
                json.loads(directory.with_suffix(".json").read_text()),
                max(each["step"] for each in log if each["kind"] == "captured"),
                time.monotonic() - began,
                log[-1]["time"] - log[0]["time"],
                int(directory.with_suffix(".calls").read_text()),
            )
        return self.wholes[model]

    def chain(self, kills: int) -> None:
        """One training, killed so many times at most and then let finish."""
        import exactness

        drawn = self.drawn
        self.chains += 1
        model = drawn.choice(MODELS)
        changes = {
            "verify": drawn.choice(["bytes", "structure"]),
            "keep": drawn.choice(["last 1", "last 3", "best 1 loss min", "all"]),
            "when_busy": drawn.choice(["wait", "replace"]),
        }
        directory = self.place / f"chain-{self.chains}"
        words = [f"training {self.chains}, {model}, {changes}"]
        newest, said = "", 0
        for left in range(kills, -1, -1):
            first = left == kills and bool(self.firsts)
            kill = self.firsts.pop() if first else None
            kill = kill or (self.draw(self.whole(model), newest) if left else None)
            killed = self.session(model, directory, kill, changes)
            wrong = wrong_with(directory)
            taken = resumed_from(directory)
            if len(taken) > said and taken[-1] != newest:  # else it was killed before it said so
                wrong.append(f"went on from {taken[-1]}, and {newest} was the newest")
            if killed:
                self.kills += 1
                self.met += first
                words.append(f"killed {kill}")
            if wrong:
                self.unfit.append(f"{'; '.join(words)}: {'; '.join(wrong)}")
                self.unfit_at_first += self.unfit[-1:] if first and killed else []
                return
            if not killed:
                break
            newest, said = max(RunDirectory(directory).names(), default=""), len(taken)
        found = json.loads(directory.with_suffix(".json").read_text())
        whole = self.whole(model).said
        if not newest and found["level"] is None:  # killed before anything was saved
            found["level"] = ["exact"]
        difference = exactness.difference(None, whole, found)
        if difference:
            self.differing.append(f"{'; '.join(words)}: {difference}")
        else:
            shutil.rmtree(directory)

    def draw(self, whole: Whole, newest: str) -> Kill:
        """How the next session dies, if it gets that far."""
        drawn = self.drawn
        to_come = 1 - int(newest[:9] or 0) / whole.steps
        kind = drawn.choices(["instant", "saving", "seam", "strace"], [1, 3, 5, 1])[0]
        if kind == "strace" and shutil.which("strace"):
            return Kill(kind, drawn.randint(1, 1 + int(40 * to_come)), drawn.choice(CALLS))
        if kind == "instant":
            return Kill(kind, drawn.uniform(0, whole.seconds))
        if kind == "saving":
            return Kill(kind, drawn.uniform(0, whole.saving * to_come))
        how = drawn.choice(HOW)
        return Kill("seam", drawn.randint(1, 1 + int(whole.calls * to_come)), how=how)

    def session(self, model: str, directory: Path, kill: Kill | None, changes: dict) -> bool:
        """One session in a child; returns whether it was killed. Raises if it failed."""
        log = directory / "events.jsonl"
        size = size_of(log)
        error = directory.with_suffix(".error")
        pid = forked(lambda: self.child(model, directory, kill, changes), error)
        tracer = None
        if kill is not None and kill.kind in ("instant", "saving"):
            if kill.kind == "saving":
                wait(pid, PATIENCE, lambda: size_of(log) != size)
            wait(pid, kill.at)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        elif kill is not None and kill.kind == "strace":
            tracer = traced(pid, kill)
        status = wait(pid, PATIENCE)
        if tracer is not None:
            tracer.wait(PATIENCE)
        if status is None:
            os.kill(pid, signal.SIGKILL)
            raise RuntimeError(f"hangs: {directory}")
        if status not in (0, -signal.SIGKILL):
            raise RuntimeError(f"ended with {status}: {directory}\n{error.read_text()}")
        return status != 0

    def child(self, model: str, directory: Path, kill: Kill | None, changes: dict) -> None:
        import exactness

        seam = Seam(kill)
        with syscalls.watched(seam):
            case = exactness.Case(model, "arrays", "")
            exactness.child(case, directory, directory.with_suffix(".json"), kill=False, **changes)
        directory.with_suffix(".calls").write_text(str(seam.calls))


def resumed_from(directory: Path) -> list[str]:
    """The checkpoints that sessions have gone on from, as far as they came to say so."""
    return [
        each["name"] for each in RunDirectory(directory).events.read() if each["kind"] == "resumed"
    ]


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def traced(pid: int, kill: Kill) -> subprocess.Popen:
    """strace, which kills the child at this call."""
    inject = f"inject={kill.call}:signal=SIGKILL:when={kill.at:.0f}"
    command = ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={kill.call}", "-e", inject]
    return subprocess.Popen([*command, "-p", str(pid)], stderr=subprocess.DEVNULL)


def main(seed: int, number: int, workers: int, count: int, place: Path) -> None:
    import exactness  # noqa: F401 - quiet, and on the CPU

    ready_to_fork()
    firsts = [Kill("seam", at, how=how) for at in range(1, FIRST + 1) for how in HOW]
    random.Random(seed).shuffle(firsts)
    drawn = random.Random(seed * 1000 + number)
    scores = Worker(drawn, place, firsts[number::workers]).work(count)
    (place / "scores.json").write_text(json.dumps([asdict(each) for each in scores]))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:5]), Path(sys.argv[5]))
