"""Select the checkpoint to resume from, and say why newer ones are skipped.

The one walk over candidates: a `fit` with one or several kits, `restore` and the command
line all use `select`. It verifies each checkpoint to depth `structure` now and believes no
recorded finding. It changes nothing and needs neither Keras nor TensorFlow: the caller
passes the function that reads a checkpoint. `record` then writes down what a walk found.

Only evidence of damage counts. A checkpoint that the system could not read is skipped, and
is not treated as damaged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from keras_savekit.base.key import Key
from keras_savekit.errors import CheckpointError, ResumeError, UnverifiableError
from keras_savekit.store.checkpoint import Checkpoint
from keras_savekit.store.manifest import Finding, Verification
from keras_savekit.store.run import RunDirectory
from keras_savekit.verify.depths import check_files, unverified, why_unverified

NONE_TRUSTED = "the key authenticates no checkpoint"

Content = TypeVar("Content")
Read = Callable[[Checkpoint], Content | None]
Filter = Callable[[Checkpoint], bool]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One entry among a run's checkpoints, with what is known about it.

    checkpoint: None if the entry is no checkpoint or its manifest could not be read.
    verification: recorded earlier, or made just now.
    failure: why it could not be verified, if it could not.
    """

    name: str
    checkpoint: Checkpoint | None
    verification: Verification
    failure: UnverifiableError | None = None

    @property
    def usable(self) -> bool:
        """Whether a training may resume from it."""
        known = self.failure is None and self.checkpoint is not None
        return known and self.verification.good

    @property
    def fresh(self) -> bool:
        """Whether the verification is not on the disk yet."""
        return self.checkpoint is None or self.checkpoint.verification is not self.verification

    @property
    def untrusted(self) -> bool:
        """Whether the only thing wrong with it is that the key did not sign it."""
        return self.verification.only_untrusted

    def why_not(self) -> str:
        """What is wrong with it, or why that is unknown, on one line."""
        if self.failure is not None:
            return why_unverified(self.failure)
        first, *more = self.verification.findings
        return f"{first}" + (f" and {len(more)} more" if more else "")

    def __str__(self) -> str:
        return f"{self.name}: {self.why_not()}"


@dataclass(frozen=True, slots=True)
class Search:
    """The outcome of the walk over one directory.

    chosen: the newest usable candidate; None if there is none.
    skipped: the candidates before it, in the order of the walk.
    """

    directory: RunDirectory
    chosen: Candidate | None
    skipped: tuple[Candidate, ...]

    @property
    def unverified(self) -> tuple[Candidate, ...]:
        """Those that could not be verified: they may be good."""
        return tuple(candidate for candidate in self.skipped if candidate.failure is not None)

    @property
    def untrusted(self) -> tuple[Candidate, ...]:
        """Those that the key did not sign."""
        return tuple(candidate for candidate in self.skipped if candidate.untrusted)

    def require_readable(self) -> None:
        """Raise ResumeError if this process lacks what it needs to read any checkpoint."""
        for candidate in self.unverified:
            if candidate.failure is not None and candidate.failure.process_wide:
                failure = candidate.failure
                raise ResumeError(
                    f"no checkpoint can be verified: {failure.what}",
                    failure.where or str(self.directory.path),
                    f"{failure.remedy}; nothing was changed, and no checkpoint counts as damaged",
                ) from failure

    def require_known(self) -> None:
        """Raise ResumeError if none is usable and some could not be verified."""
        if self.chosen is None and self.unverified:
            listed = "".join(f"\n  {candidate}" for candidate in self.unverified)
            raise ResumeError(
                f"no checkpoint is known to be good, and some could not be verified:{listed}",
                str(self.directory.path),
                "make them readable and start again, or choose another directory to start from"
                " scratch",
            )

    def require_trusted(self) -> None:
        """Raise ResumeError if none is usable and the key did not sign some: it may be wrong."""
        if self.chosen is None and self.untrusted:
            first = self.untrusted[0]
            raise ResumeError(
                f"{NONE_TRUSTED}; the newest: {first.why_not()}",
                str(first.checkpoint and first.checkpoint.path),
                "give the key of this run, or choose another directory; none was changed",
            )


@dataclass(frozen=True, slots=True)
class Selection(Generic[Content]):
    """The outcome of `select`.

    searches: one for each directory that was walked, in that order.
    chosen: the search that found the newest checkpoint; None if none did.
    content: what `read` returned for it.
    """

    searches: tuple[Search, ...]
    chosen: Search | None
    content: Content | None

    @property
    def skipped(self) -> tuple[Candidate, ...]:
        """The skipped candidates of all directories."""
        return tuple(candidate for search in self.searches for candidate in search.skipped)


def select(
    directories: Sequence[RunDirectory],
    now: float,
    read: Read[Content],
    among: Filter | None = None,
) -> Selection[Content]:
    """Walk from the newest candidate back, and select the first that is good and that `read` reads.

    directories: of several, the checkpoint with the highest step is selected; of equal
        steps, the one of the directory listed last.
    now: seconds since 1970.
    read: returns the content of a checkpoint, or None to ignore it. If it raises
        CheckpointError, the checkpoint is skipped for that reason.
    among: only these checkpoints are considered.

    Changes nothing. A walk ends where this process can read no checkpoint at all.
    """
    searches: list[Search] = []
    chosen: Search | None = None
    content: Content | None = None
    step = -1
    for newest, directory in _newest_first(directories):
        if content is not None and step >= newest:
            break
        search, found = _search(directory, now, read, among)
        searches.append(search)
        if found is not None and _step(search.chosen) > step:
            chosen, content, step = search, found, _step(search.chosen)
    return Selection(tuple(searches), chosen, content)


def _newest_first(directories: Sequence[RunDirectory]) -> list[tuple[int, RunDirectory]]:
    """Directories with their highest step, the highest first; of equal steps the last first."""
    if len(directories) == 1:
        return [(0, directories[0])]
    steps = [(_last_step(directory), place) for place, directory in enumerate(directories)]
    return [(step, directories[place]) for step, place in sorted(steps, reverse=True)]


def _last_step(directory: RunDirectory) -> int:
    steps = (checkpoint.manifest.moment.step for checkpoint in directory.checkpoints())
    return max(steps, default=-1)


def _step(candidate: Candidate | None) -> int:
    if candidate is None or candidate.checkpoint is None:
        return -1
    return candidate.checkpoint.manifest.moment.step


def _search(
    directory: RunDirectory, now: float, read: Read[Content], among: Filter | None
) -> tuple[Search, Content | None]:
    skipped: list[Candidate] = []
    for candidate in candidates(directory, now, among):
        outcome, content = candidate, None
        if candidate.usable and candidate.checkpoint is not None:
            outcome, content = _try(candidate, candidate.checkpoint, read, now)
            if content is not None:
                return Search(directory, outcome, tuple(skipped)), content
        if outcome.usable:
            continue  # `read` ignores it
        skipped.append(outcome)
        if outcome.failure is not None and outcome.failure.process_wide:
            break
    return Search(directory, None, tuple(skipped)), None


def _try(
    candidate: Candidate, checkpoint: Checkpoint, read: Read[Content], now: float
) -> tuple[Candidate, Content | None]:
    """Read a usable candidate. If that fails, the candidate says why."""
    try:
        with suppress(CheckpointError):  # its files are whole: the disk may have failed once
            return candidate, read(checkpoint)
        return candidate, read(checkpoint)
    except UnverifiableError as error:
        return replace(candidate, failure=error), None
    except CheckpointError as error:
        finding = Finding("tensor", error.where, error.what)
        verification = Verification("structure", now, (finding,))
        return replace(candidate, verification=verification), None


def candidates(
    directory: RunDirectory, now: float, among: Filter | None = None
) -> Iterator[Candidate]:
    """Yield entries that are no checkpoint, then checkpoints from the newest back.

    Each is verified only when it is requested. now: seconds since 1970.
    """
    scan = directory.scan()
    for name, error in scan.damaged:
        if isinstance(error, UnverifiableError):
            yield Candidate(name, None, unverified(error, now), error)
            continue
        finding = Finding("manifest", name, error.what)
        yield Candidate(name, None, Verification("bytes", now, (finding,)))
    for checkpoint in reversed(scan.checkpoints):
        if among is None or among(checkpoint):
            yield _verify(checkpoint, now, directory.key)


def _verify(checkpoint: Checkpoint, now: float, key: Key | None) -> Candidate:
    try:
        found = check_files(checkpoint.path, "structure", now, key)
    except UnverifiableError as error:
        return Candidate(checkpoint.name, checkpoint, unverified(error, now), error)
    known = checkpoint.verification
    if known is not None and known.good and known.done and found.good:
        found = known  # it may have reached a greater depth
    return Candidate(checkpoint.name, checkpoint, found)
