"""The checkpoints of a run that goes on, without reading again what cannot have changed.

What is written in a checkpoint after it was published (its verification, a pin)
comes by a name in its directory, so the directory's own time of change tells.
For whoever looks after every save; whoever must not be wrong about a file that
was changed in place reads it with `RunDirectory.scan`.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from keras_savekit.errors import CheckpointError
from keras_savekit.store.run import Checkpoint, RunDirectory, by_age

# Two changes within one tick of a file system's clock look like one: those of FAT are longest.
_TICK = 2_000_000_000


class _Mark(NamedTuple):
    inode: int
    changed: int


class ListingCache:
    """What was read of the checkpoints of one run. Threads may share it."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._known: dict[str, tuple[_Mark, Checkpoint]] = {}

    def checkpoints(self) -> list[Checkpoint]:
        """All checkpoints whose manifest can be read, by step, then name, as they are now."""
        before, now = self._known, {}
        settled = time.time_ns() - _TICK
        found = []
        for name in self._directory.names():
            try:
                mark = self._mark(name)  # first: what changes while it is read is read again
                then, checkpoint = before.get(name, (None, None))
                if checkpoint is None or then != mark:
                    checkpoint = self._directory.open(name)
            except (OSError, CheckpointError):
                continue  # gone by now, or damaged
            if mark.changed < settled:
                now[name] = mark, checkpoint
            found.append(checkpoint)
        self._known = now
        return sorted(found, key=by_age)

    def _mark(self, name: str) -> _Mark:
        found = os.lstat(f"{self._directory.checkpoints_path}/{name}")
        return _Mark(found.st_ino, found.st_ctime_ns)
