"""A run's directory and the life of one session in it, of NumPy alone, so that tries are quick.

The directory, the pipeline and the choice of a resume are the real ones. What
training would hand over, the snapshot, is made here: its one weight holds the step.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from keras_savekit.base.moment import Moment
from keras_savekit.base.tensors import Blueprint, Group, LayerWeights, Slot, Snapshot, Variable
from keras_savekit.errors import SavekitError
from keras_savekit.policy.plan import Due, Policy, SavePlan
from keras_savekit.resume.load import load_checkpoint
from keras_savekit.resume.record import select_and_record
from keras_savekit.save.pipeline import Pipeline
from keras_savekit.store import syscalls
from keras_savekit.store.naming import Leftover
from keras_savekit.store.prepare import missing_features, prepare
from keras_savekit.store.run import LINKS, RunDirectory
from keras_savekit.store.run_lock import RunLock
from keras_savekit.store.run_writer import RunWriter
from keras_savekit.verify.depths import verify_files

SHAPE = (40, 50)
BLUEPRINT = Blueprint(
    variables=(Variable("weight", 0, "dense/kernel", SHAPE, "float32"),),
    layers=(LayerWeights("dense", (0,)),),
    top_level=(),
    groups=(Group("layers/dense/vars"),),
    slots=(Slot("layers/dense/vars/0", 0),),
    model_config="{}",
    training_config=None,
    compile_config=None,
    learning_rate=None,
    versions={"keras": "3"},
)
# What a resume asks of a state.
STATE = {
    "epochs": 1,
    "length": None,
    "stopped": False,
    "consistent": True,
    "data": None,
    "randomness": {},
    "callbacks": {},
    "memory": {},
    "history": [],
    "optimizer": None,
}
LATEST = SavePlan(name="latest", when="every 1 steps", keep="last 2", verify="structure")
BEST = SavePlan(
    name="best",
    save="weights",
    when="improved loss min",
    keep="best 1 loss min",
    verify="bytes",
)
ARCHIVE = SavePlan(
    name="archive", format="keras", when="every 1 steps", keep="last 1", verify="bytes"
)
DAMAGED = "000000003-latest"
POLICY = Policy(plans=[LATEST, BEST, ARCHIVE])


def snapshot(step: int, shape: tuple[int, ...] = SHAPE, **logs: float) -> Snapshot:
    moment = Moment(step=step, logs=logs or {"loss": 1 / step})
    return Snapshot(BLUEPRINT, (np.full(shape, step, np.float32),), moment, {"step": step, **STATE})


@dataclass
class Told:
    """What one session told, and how it ended."""

    stopped: SavekitError | None = None
    problems: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    passed: tuple[str, ...] = ()
    resumed: int | None = None

    @property
    def words(self) -> list[str]:
        return [*self.problems, *self.notices, *([str(self.stopped)] if self.stopped else [])]


class Killed(BaseException):
    """The process is gone: nothing of ours may catch this."""


def live(
    path: Path,
    steps: Iterable[int],
    plans: tuple[SavePlan, ...] = POLICY.plans,
    wall: Callable[[], float] = time.time,
    gone: Callable[[], bool] = lambda: False,
) -> Told:
    """One session, as `SaveKit` has it: resume, save at `steps` for each plan, verify, link, prune.

    gone: whether the process has been killed meanwhile, so that nobody is waited for.
    """
    told = Told()
    directory, lock = RunDirectory(path), RunLock(path)
    pipeline = None
    try:
        try:
            prepare(directory)
            lock.acquire()
            writer = RunWriter(directory, lock)
            told.notices += missing_features(writer)
            run = writer.write_run_info({}).run
            writer.sweep()
            selection = select_and_record([writer], wall())
            found, told.passed = selection.content, tuple(map(str, selection.skipped))
            told.resumed = found.checkpoint.manifest.moment.step if found else None
            pipeline = Pipeline(writer, Policy(plans=list(plans)), run, wall)
            for step in steps:
                for plan in plans:
                    pipeline.save(snapshot(step), Due(plan, (f"step {step}",)))
                    _settled(pipeline, gone)
        except SavekitError as error:
            told.stopped = error
        if pipeline is not None:
            pipeline.close()
            told.problems += map(str, pipeline.outcomes.problems())
            told.notices += pipeline.outcomes.notices()
        lock.release()
    except Killed:
        if pipeline is not None:
            pipeline.close()
        if lock._close is not None:
            lock._close.detach()  # what the kernel does is up to the caller
        raise
    return told


def _settled(pipeline: Pipeline, gone: Callable[[], bool]) -> None:
    while pipeline.pending and not gone():
        time.sleep(0.0002)
    if gone():
        raise Killed


def opened(path: Path) -> RunDirectory:
    """The directory after whatever happened, as the next session finds it, swept."""
    directory = RunDirectory(path)
    prepare(directory)
    with RunWriter.acquire(directory) as writer:
        writer.sweep()
    return directory


def faults_of(directory: RunDirectory) -> Iterator[str]:
    """Where the law is broken: what is listed is whole, links lead to it, nothing is left over."""
    scan = directory.scan()
    for name, error in scan.damaged:
        yield f"{name} is listed and no checkpoint: {error.what}"
    for each in scan.checkpoints:
        verification = verify_files(each.path, "structure", 0.0)
        yield from (f"{each.name}: {finding}" for finding in verification.findings)
        if verification.good:
            value = load_checkpoint(each).tensors.get("weight", {0: None})[0]
            if value is not None and not (np.asarray(value) == each.manifest.moment.step).all():
                yield f"{each.name} holds other values than those of its step"
    for which in LINKS:
        if os.path.lexists(directory.path / which) and directory.linked(which) is None:
            yield f"{which} leads nowhere"
    for left in directory.path.rglob(".*"):
        if Leftover.parse(left.name):
            yield f"{left.name} is left over"


def good(directory: RunDirectory) -> set[str]:
    return {
        each.name for each in directory.checkpoints() if verify_files(each.path, "bytes", 0.0).good
    }


def lost_good(before: set[str], directory: RunDirectory) -> Iterator[str]:
    """What was good before, and is gone though no rule of `POLICY` lets it go."""
    after = good(directory)
    for name in sorted(before - after):
        plan = name.partition("-")[2]
        newer = [each for each in after if each.endswith(f"-{plan}") and each > name]
        if len(newer) < (2 if plan == "latest" else 1):
            yield f"{name} was good and is gone"
    for name, verification in directory.quarantined():
        if verify_files(directory.quarantine_path / name, "bytes", 0.0).good:
            why = verification.findings if verification else "no reason"
            yield f"{name} is good and was set aside: {why}"


@contextmanager
def quiet() -> Iterator[None]:
    """Threads that were killed say nothing; warnings are not errors."""
    hook = threading.excepthook
    threading.excepthook = lambda args: None if args.exc_type is Killed else hook(args)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        threading.excepthook = hook


def unsynced() -> AbstractContextManager[None]:
    """In here nobody waits for the disk; what a loss of power does is the business of `crashes`."""
    return syscalls.watched(lambda name, call, *given: None if name == "fsync" else call(*given))


def make_base(path: Path) -> None:
    """Checkpoints of three plans; the newest `latest` is damaged and nobody has noticed."""
    live(path, (1, 2, 3))
    damage(path / "checkpoints" / DAMAGED / "model.h5")
    (path / "checkpoints" / DAMAGED / "verification.json").unlink()
    (path / "checkpoints" / ".scratch-000000004-latest-1-0").mkdir()


def damage(path: Path) -> None:
    """One bit of a file is another."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
