"""One checkpoint as a run lists it, and everything that a scan of a run finds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from keras_savekit.errors import CheckpointError
from keras_savekit.store.manifest import Manifest, Verification

Status = Literal["verified", "unverified", "failed"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One published checkpoint whose manifest could be read.

    verification: the last one, None if there is none or it cannot be read.
    pinned: whether the user pinned it, so that no policy removes it.
    """

    path: Path
    manifest: Manifest
    verification: Verification | None
    pinned: bool = False

    @property
    def name(self) -> str:
        """The name of its directory."""
        return os.path.basename(self.path)  # noqa: PTH119  # a list has ten thousand of these

    @property
    def status(self) -> Status:
        """What its last verification says."""
        found = self.verification
        if found is None or (found.good and not found.done):
            return "unverified"
        return "verified" if found.good else "failed"


def by_age(checkpoint: Checkpoint) -> tuple[int, str]:
    """The sort key of checkpoints: the step, then the name."""
    return checkpoint.manifest.moment.step, checkpoint.name


class Scan(NamedTuple):
    """All entries among the checkpoints of a run.

    checkpoints: by step, then name.
    damaged: entries that have a checkpoint's name but are none, by name, with the reason.
    foreign: names that no checkpoint has. They belong to the user and are left alone.
    """

    checkpoints: list[Checkpoint]
    damaged: list[tuple[str, CheckpointError]]
    foreign: list[str]
