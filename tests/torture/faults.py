"""The n-th operation fails: every call that a session makes of the disk, in every way.

A session resumes past a damaged checkpoint, saves for three plans in three
formats, verifies, links, prunes. One call of it fails with an error, writes only
half of what it was given, or is the last before the process is gone (a `torn`
one has written half). Then the laws of `worlds` are looked at, the user must have
been told once or not at all, and a session without faults must go on.

About 150 ms a try, 1 s for one with a real `fit`.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from keras_savekit.errors import SavekitError, SavekitWarning
from keras_savekit.save.verifier import NO_LONGER
from keras_savekit.store import syscalls
from keras_savekit.store.run import RunDirectory
from torture import worlds
from torture.score import Score
from torture.worlds import Killed, Told

FULL = 9400
ERRORS = ("EIO", "ENOSPC", "EDQUOT", "EACCES", "EINTR")
KINDS = (*ERRORS, "short", "torn", "crash")
WRITES = ("write", "pwrite")
FITS = 1 / 50  # of the tries, with a real `fit`


class Fault:
    """Stands around every call; the one with number `at` goes wrong."""

    def __init__(self, kind: str, at: int) -> None:
        self.kind, self.at = kind, at
        self.calls: list[str] = []
        self.struck = ""
        self.gone = False
        self._open: set[int] = set()
        self._one = threading.Lock()

    def __call__(self, name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        with self._one:
            if self.gone:
                raise Killed
            self.calls.append(name)
            strikes = not self.struck and len(self.calls) > self.at
            if strikes and self.kind in ("short", "torn"):
                strikes = name in WRITES and len(arguments[1]) > 1
            if strikes:
                self.struck = f"{self.kind} at {name} {_shown(arguments)}"
                self.gone = self.kind in ("crash", "torn")
        if not strikes:
            # A process that dies loses nothing that the kernel has.
            result = None if name == "fsync" else call(*arguments)
            if name == "open":
                self._open.add(result)
            elif name == "close":
                self._open.discard(arguments[0])
            return result
        if self.kind in ("short", "torn"):
            descriptor, data, *rest = arguments
            written = call(descriptor, data[: len(data) // 2], *rest)
            if self.kind == "short":
                return written
        if self.gone:
            raise Killed
        if name == "close":  # it is closed all the same
            call(*arguments)
            self._open.discard(arguments[0])
        raise OSError(getattr(errno, self.kind), os.strerror(getattr(errno, self.kind)))

    def bury(self) -> None:
        """What the kernel does when a process is gone."""
        for descriptor in self._open:
            os.close(descriptor)


def _shown(arguments: tuple[Any, ...]) -> str:
    return " ".join(str(each) for each in arguments if isinstance(each, Path | str))


def run(seed: int, count: int, scratch: Path) -> list[Score]:
    """Each call with each kind of fault, as often as `count` allows."""
    base = scratch / "base"
    worlds.make_base(base)
    plain = Fault("none", 10**9)
    session(shutil.copytree(base, scratch / "counted", symlinks=True), plain)
    fits = round(count * FITS)
    every = [(kind, at) for at in range(len(plain.calls)) for kind in KINDS]
    random.Random(seed).shuffle(every)
    tries = [every[number % len(every)] for number in range(count - fits)]
    failures = []
    with worlds.quiet(), worlds.unsynced():
        for number, (kind, at) in enumerate(tries):
            path = shutil.copytree(base, scratch / f"{number}", symlinks=True)
            found = list(one(path, kind, at))
            failures += [f"{kind} at call {at}: {each}" for each in found[:1]]
            shutil.rmtree(path)
    promise = (
        "any one call fails or is the last call: the directory opens, every listed checkpoint "
        "loads, no good checkpoint is lost, saving continues, the failure is reported once"
    )
    scores = [Score(promise, len(tries), tuple(failures))]
    if fits:
        scores.append(_fits(seed, fits, scratch))
    return scores


def session(path: Path, fault: Fault) -> Told | None:
    with syscalls.watched(fault):
        try:
            return worlds.live(path, (4, 5), gone=lambda: fault.gone)
        except Killed:
            fault.bury()
            return None


def one(path: Path, kind: str, at: int) -> Iterator[str]:
    before = worlds.good(RunDirectory(path))
    fault = Fault(kind, at)
    told = session(path, fault)
    directory = worlds.opened(path)
    yield from _laws(directory, before, fault, unnoticed=worlds.DAMAGED)
    if told is not None:
        yield from _told_once(told, directory, fault)
    after = worlds.live(path, (7,))
    if after.words or "000000007-latest" not in worlds.good(directory):
        yield f"{fault.struck}: the next session does not go on: {after.words}"
    yield from _laws(directory, before, fault)


def _laws(
    directory: RunDirectory, before: set[str], fault: Fault, unnoticed: str = "nothing"
) -> Iterator[str]:
    for broken in (*worlds.faults_of(directory), *worlds.lost_good(before, directory)):
        if not broken.startswith(unnoticed):
            yield f"{fault.struck}: {broken}"


def _told_once(told: Told, directory: RunDirectory, fault: Fault) -> Iterator[str]:
    missing = {"000000005-latest", "000000005-best", "000000005-archive"} - {
        each.name for each in directory.checkpoints()
    }
    if len(told.words) > 1:
        yield f"{fault.struck}: told more than once: {told.words}"
    if missing and not told.words:
        yield f"{fault.struck}: {missing} are missing and nobody was told"


def _fits(seed: int, count: int, scratch: Path) -> Score:
    """The same with real trainings: they end as if nothing had happened, or do not begin.

    Policies differ in what they want after a failure, and how long they wait at the end.
    """
    import warnings

    import training_builders as built

    import keras_savekit as sk

    failures = []
    rng = random.Random(seed)

    def train(path: Path, fault: Fault, on_failure: str, final_wait: str | None) -> list[str]:
        plan = built.plan("every 3 steps", keep="last 2", verify="structure")
        policy = built.policy(plan, directory=str(path), on_failure=on_failure)
        if final_wait is not None:
            policy["limits"] = {"final_wait": final_wait}
        with syscalls.watched(fault), warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            data = built.data()
            made = built.model()
            try:
                kit = sk.SaveKit(policy, data=data)
                history = built.fit(made, kit, on=data)
            except SavekitError as error:
                if made.optimizer.iterations.numpy():
                    return [f"training ended: {error}"]
                return []
        ours = [str(each.message) for each in told if each.category is SavekitWarning]
        ours = [each for each in ours if NO_LONGER not in each]  # no failure, and asked for
        wrong = [f"told more than once: {ours}"] if len(ours) > 1 else []
        if len(history.epoch) != 2:
            wrong.append(f"epochs: {history.epoch}")
        newest = max(each.manifest.moment.step for each in RunDirectory(path).checkpoints())
        if newest != 12 and on_failure == "resave":
            wrong.append(f"the newest is of step {newest}, and nothing was saved again")
        return wrong

    plain = Fault("none", 10**9)
    wrong = train(scratch / "fit", plain, "warn", None)
    failures += [f"without a fault: {each}" for each in wrong]
    for number in range(count):
        kind, at = rng.choice((*ERRORS, "short")), rng.randrange(len(plain.calls))
        path = scratch / f"fit{number}"
        fault = Fault(kind, at)
        how = rng.choice(("warn", "resave")), rng.choice((None, "0"))
        wrong = train(path, fault, *how)
        directory = worlds.opened(path)
        wrong += list(worlds.lost_good(set(), directory))
        wrong += [f"{name}: {error.what}" for name, error in directory.damaged()]
        what = f"{kind} at call {at} of a fit, {how} ({fault.struck})"
        failures += [f"{what}: {each}" for each in wrong[:1]]
    return Score(
        "a `fit` with one failing call trains all its epochs, or is refused before its first step",
        count,
        tuple(failures),
    )
