"""From which checkpoint a training goes on, and how exactly.

Walks back from the newest checkpoint. What was verified is taken as it is, what
was not is verified now, what is damaged is moved to quarantine with its findings;
each one that is skipped says why. Only evidence of damage counts: what the system
could not read stays where it is. Reading its tensors checks them once more against the
digests taken when they were in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from keras_savekit.base.defects import DefectError
from keras_savekit.base.moment import Moment
from keras_savekit.data.source import Source
from keras_savekit.errors import CheckpointError, ResumeError, UnverifiableError
from keras_savekit.formats import log_values, state_h5
from keras_savekit.formats.state_h5 import STATE_FILE
from keras_savekit.model.assign import Tensors, read_tensors
from keras_savekit.resume.candidates import (
    NONE_TRUSTED,
    Candidate,
    candidates,
    require_known,
    require_process_can,
)
from keras_savekit.store.manifest import Finding, Verification
from keras_savekit.store.read_errors import retried, unreadable
from keras_savekit.store.regular_file import inside
from keras_savekit.store.run import Checkpoint, RunDirectory

Level = Literal["exact", "exact from the epoch's start", "position", "weights only"]
LEVELS: tuple[Level, ...] = get_args(Level)  # the best first


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint that can be resumed from, read whole and checked."""

    checkpoint: Checkpoint
    tensors: Tensors
    state: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Restored:
    """Where a training goes on, and how exactly.

    moment: position of the first batch to come.
    level: `exact`: as if it had never stopped. `exact from the epoch's start`:
        batches of an epoch begun are trained again. `position`: the order of
        the data, or what a callback remembered, is not known to be the same.
        `weights only`: the optimizer is not that of the checkpoint, or there is none.
    reasons: why the level is not `exact`, each with what to do about it.
    """

    name: str
    moment: Moment
    level: Level
    reasons: tuple[str, ...]
    passed_over: tuple[str, ...]

    def __str__(self) -> str:
        now = self.moment
        head = f"resumed from {self.name} ({self.level}): epoch {now.epoch + 1}, "
        lines = [
            head + f"{now.batch} batches done, step {now.step}",
            *(f"  not exact: {reason}" for reason in self.reasons),
            *(f"  passed over {reason}" for reason in self.passed_over),
        ]
        return "\n".join(lines)


def find(directory: RunDirectory, now: float) -> tuple[Found | None, tuple[str, ...]]:
    """The newest checkpoint that is whole, and what was skipped on the way to it.

    For the holder of the directory's lock: damaged ones are moved to quarantine, those
    that the directory's key does not vouch for once one is found that it does, and those
    that the system could not read never. Raises ResumeError if there are none but such:
    the key may be a wrong one, the file system may answer later. Raises it too, before
    anything is moved, if this process lacks descriptors or memory to read any.
    """
    skipped = _Skipped(directory)
    for each in candidates(directory, now):
        found = None
        if each.usable and each.checkpoint is not None:
            each, found = _taken(each, each.checkpoint, now)  # noqa: PLW2901
        if found is None:
            skipped.add(each)
            continue
        if each.fresh:
            _record(directory, each.name, each.verification)
        return found, skipped.filed(untrusted_too=True)
    passed = skipped.filed(untrusted_too=False)
    require_known(skipped.unknown, str(directory.path))
    if skipped.untrusted:
        first = skipped.untrusted[0]
        raise ResumeError(
            f"{NONE_TRUSTED}; of the newest: {first.why_not()}",
            str(first.checkpoint and first.checkpoint.path),
            "give the key of this run, or choose another directory; none was changed",
        )
    return None, passed


class _Skipped:
    """The checkpoints that a resume skips; nothing is moved until all of them are known."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._all: list[Candidate] = []
        self.untrusted: list[Candidate] = []
        self.unknown: list[Candidate] = []

    def add(self, each: Candidate) -> None:
        """Note one; raises ResumeError if every other would be skipped for the same reason."""
        if each.failure is not None:
            require_process_can(each.failure, str(self._directory.path))
            self.unknown.append(each)
        elif each.untrusted:
            self.untrusted.append(each)
        self._all.append(each)

    def filed(self, *, untrusted_too: bool) -> tuple[str, ...]:
        """Move those to quarantine that belong there; why each was skipped."""
        return tuple(self._file(each) for each in self._all if untrusted_too or not each.untrusted)

    def _file(self, each: Candidate) -> str:
        why = each.why_not()
        if each.failure is not None:
            self._directory.events.append("unverified", name=each.name, why=why)
        else:
            findings = [str(finding) for finding in each.verification.findings]
            self._directory.quarantine(each.name, each.verification)
            self._directory.events.append("quarantined", name=each.name, findings=findings)
        return f"{each.name}: {why}"


def _taken(each: Candidate, checkpoint: Checkpoint, now: float) -> tuple[Candidate, Found | None]:
    """A usable candidate read whole; or without, and with what is then known of it."""
    try:
        return each, _read(checkpoint)
    except UnverifiableError as error:
        return replace(each, failure=error), None
    except CheckpointError as error:
        finding = Finding("tensor", error.where, error.what)
        return replace(each, verification=Verification("structure", now, (finding,))), None


def _read(checkpoint: Checkpoint) -> Found:
    with suppress(CheckpointError):  # its files are whole: the disk may have failed once
        return read(checkpoint)
    return read(checkpoint)


def read(checkpoint: Checkpoint) -> Found:
    """A checkpoint's tensors, each compared with its digest, and its state.

    Raises CheckpointError if anything is damaged, UnverifiableError if the system failed.
    """
    tensors = read_tensors(checkpoint.path, checkpoint.manifest)
    try:
        path = inside(checkpoint.path, STATE_FILE)
    except DefectError as error:
        raise CheckpointError(error.what, str(checkpoint.path / STATE_FILE)) from error
    except OSError as error:
        raise unreadable("cannot be read", str(checkpoint.path / STATE_FILE), error) from error
    state = state_h5.read(path)
    try:
        _STATE.validate_python(state)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        what = f"the training state has a wrong {first['loc'][0]}: {first['msg']}"
        raise CheckpointError(what, str(path)) from error
    return Found(checkpoint, tensors, state)


def _history(epochs: list[tuple[int, dict[str, Any]]]) -> list[tuple[int, dict[str, Any]]]:
    for _, saved in epochs:
        log_values.decode_logs(saved)  # else ValueError: a file may hold anything
    return epochs


class _State(TypedDict):
    """What a training that goes on asks of the state; the rest is others' business."""

    epochs: int
    length: int | None
    stopped: bool
    consistent: bool
    data: dict[str, Any] | None
    randomness: dict[str, Any]
    callbacks: dict[str, Any]
    memory: dict[str, float]
    history: Annotated[list[tuple[int, dict[str, Any]]], AfterValidator(_history)]
    optimizer: dict[str, Any] | None


_STATE = TypeAdapter(_State)


def _record(directory: RunDirectory, name: str, verification: Verification) -> None:
    with suppress(UnverifiableError):  # without a record it is verified again next time
        retried(lambda: directory.record(name, verification))
        directory.events.append("verified", name=name, depth=verification.depth, note="at resume")


def position(
    found: Found, source: Source | None, length: int | None
) -> tuple[Moment, Level, tuple[str, ...]]:
    """Where to go on, how exactly, and why not better.

    source: of the data that training will go on with, if its order is known.
    length: batches in an epoch, if that is known.
    """
    saved = found.checkpoint.manifest.moment
    moment = saved
    level: Level = "exact"
    reasons = []
    if source is None:
        reasons.append(
            "the order of the data is not known; give fit and SaveKit(data=) the same "
            "keras_savekit.resumable() data"
        )
    elif found.state["data"] is None:
        reasons.append("the order of the data was not known when this was saved")
    elif changed_data(found, source):
        reasons.append("the order of the data is another")
    if reasons or not found.state["consistent"]:
        level = "position"
    if saved.batch and (reasons or length is None):
        moment = replace(saved, batch=0)
        if not reasons:
            level = "exact from the epoch's start"
            reasons.append(
                "how many batches an epoch has is not known yet; give resumable(steps_per_epoch=)"
            )
        reasons.append(f"epoch {saved.epoch + 1} starts again; {saved.batch} batches are repeated")
    if not found.state["consistent"]:
        reasons.append("an exception in the middle of a step may have left a part of it")
    return moment, level, tuple(reasons)


def changed_data(found: Found, source: Source | None) -> str:
    """How the data differs from that of the checkpoint, where both are known; else empty."""
    before = found.state["data"]
    if source is None or before is None or before == source.identity:
        return ""
    now = source.identity
    words = [
        f"{key} was {before.get(key)}, is {now[key]}" for key in now if before.get(key) != now[key]
    ]
    return f"the data is not what it was: {', '.join(words)}"
