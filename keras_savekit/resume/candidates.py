"""Which checkpoint of a run a training goes on from, and why not a newer one.

The newest that is whole: each is verified to depth `structure` now, and no recorded
finding is believed. Nothing is changed here, and TensorFlow not needed. A checkpoint
that the system could not read is no candidate, and is not held to be damaged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keras_savekit.base.key import Key
from keras_savekit.errors import ResumeError, UnverifiableError
from keras_savekit.store.manifest import Finding, Verification
from keras_savekit.store.run import Checkpoint, RunDirectory
from keras_savekit.verify.depths import check_files, unverified, why_unverified

NONE_TRUSTED = "the key vouches for no checkpoint"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One entry of a run's checkpoints, with what is known of it.

    checkpoint: None if it is none, or its manifest could not be read.
    verification: recorded before, or made just now.
    failure: why it could not be verified, if it could not.
    """

    name: str
    checkpoint: Checkpoint | None
    verification: Verification
    failure: UnverifiableError | None = None

    @property
    def usable(self) -> bool:
        """Whether a training may go on from it."""
        known = self.failure is None and self.checkpoint is not None
        return known and self.verification.good

    @property
    def fresh(self) -> bool:
        """Whether the verification is not on the disk yet."""
        return self.checkpoint is None or self.checkpoint.verification is not self.verification

    @property
    def untrusted(self) -> bool:
        """Whether all that is wrong with it is that the key does not vouch for it."""
        return self.verification.only_untrusted

    def why_not(self) -> str:
        """What is wrong with it, or why that is unknown, on one line."""
        if self.failure is not None:
            return why_unverified(self.failure)
        first, *more = self.verification.findings
        return f"{first}" + (f" and {len(more)} more" if more else "")


def candidates(directory: RunDirectory, now: float) -> Iterator[Candidate]:
    """What is no checkpoint at all, then checkpoints from the newest on.

    Each is looked at only when it is asked for. now: seconds since 1970.
    """
    scan = directory.scan()
    for name, error in scan.damaged:
        if isinstance(error, UnverifiableError):
            yield Candidate(name, None, unverified(error, now), error)
            continue
        finding = Finding("manifest", name, error.what)
        yield Candidate(name, None, Verification("bytes", now, (finding,)))
    for checkpoint in reversed(scan.checkpoints):
        yield _candidate(checkpoint, now, directory.key)


def require_process_can(failure: UnverifiableError, where: str) -> None:
    """Raise ResumeError if the process lacks what it takes to read any checkpoint."""
    if failure.process_wide:
        raise ResumeError(
            f"no checkpoint can be verified: {failure.what}",
            failure.where or where,
            f"{failure.remedy}; nothing was changed, and no checkpoint is held to be damaged",
        ) from failure


def require_known(unknown: Sequence[Candidate], where: str) -> None:
    """Raise ResumeError if checkpoints may be good, and nobody can tell."""
    if unknown:
        listed = "".join(f"\n  {each.name}: {each.why_not()}" for each in unknown)
        raise ResumeError(
            f"no checkpoint is known to be good, and some could not be verified:{listed}",
            where,
            "make them readable and start again, or choose another directory to start from scratch",
        )


def _candidate(checkpoint: Checkpoint, now: float, key: Key | None) -> Candidate:
    try:
        found = _verification(checkpoint, now, key)
    except UnverifiableError as error:
        return Candidate(checkpoint.name, checkpoint, unverified(error, now), error)
    return Candidate(checkpoint.name, checkpoint, found)


def _verification(checkpoint: Checkpoint, now: float, key: Key | None) -> Verification:
    known = checkpoint.verification
    now_found = check_files(checkpoint.path, "structure", now, key)
    if known is not None and known.good and known.done and now_found.good:
        return known
    return now_found
