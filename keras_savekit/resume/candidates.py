"""Which checkpoint of a run a training goes on from, and why not a newer one.

The newest that is whole: each is verified to depth `structure` now, whatever is
said of it. Only what a process of its own has found at a deeper depth is believed.
Nothing is changed here, and TensorFlow not needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from keras_savekit.base.key import Key
from keras_savekit.store.manifest import Finding, Verification
from keras_savekit.store.run import Checkpoint, RunDirectory
from keras_savekit.verify.depths import verify_shallow

NONE_TRUSTED = "the key vouches for no checkpoint"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One entry of a run's checkpoints, with what is known of it.

    checkpoint: None if it is none.
    verification: recorded before, or made just now.
    """

    name: str
    checkpoint: Checkpoint | None
    verification: Verification

    @property
    def usable(self) -> bool:
        """Whether a training may go on from it."""
        return self.checkpoint is not None and self.verification.good

    @property
    def fresh(self) -> bool:
        """Whether the verification is not on the disk yet."""
        return self.checkpoint is None or self.checkpoint.verification is not self.verification

    @property
    def untrusted(self) -> bool:
        """Whether all that is wrong with it is that the key does not vouch for it."""
        return self.verification.only_untrusted

    def why_not(self) -> str:
        """What is wrong with it, on one line."""
        first, *more = self.verification.findings
        return f"{first}" + (f" and {len(more)} more" if more else "")


def candidates(directory: RunDirectory, now: float) -> Iterator[Candidate]:
    """What is no checkpoint at all, then checkpoints from the newest on.

    Each is looked at only when it is asked for. now: seconds since 1970.
    """
    scan = directory.scan()
    for name, error in scan.damaged:
        finding = Finding("manifest", name, error.what)
        yield Candidate(name, None, Verification("bytes", now, (finding,)))
    for checkpoint in reversed(scan.checkpoints):
        yield Candidate(checkpoint.name, checkpoint, _verification(checkpoint, now, directory.key))


def _verification(checkpoint: Checkpoint, now: float, key: Key | None) -> Verification:
    known = checkpoint.verification
    # What only a process of its own could find cannot be looked at again here.
    if known is not None and not known.good and known.depth in ("load", "predict"):
        return known
    now_found = verify_shallow(checkpoint.path, "structure", now, key)
    if known is not None and known.good and known.done and now_found.good:
        return known
    return now_found
