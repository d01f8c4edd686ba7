"""List the checkpoints of a run again and again without reading unchanged ones again.

Everything written into a published checkpoint (its verification, a pin) changes a name
in its directory, so the directory's change time reveals it. Made for a listing after
every save. A file changed in place goes unnoticed: to detect that, use
`RunDirectory.scan`.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from keras_savekit.errors import CheckpointError
from keras_savekit.store.checkpoint import Checkpoint, by_age
from keras_savekit.store.run import RunDirectory

# Two changes within one tick of a file system's clock look like one. FAT has the longest ticks.
_TICK = 2_000_000_000


class _Mark(NamedTuple):
    inode: int
    changed: int


class ListingCache:
    """The checkpoints of one run as last read. Threads may share it."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._known: dict[str, tuple[_Mark, Checkpoint]] = {}

    def checkpoints(self) -> list[Checkpoint]:
        """All checkpoints whose manifest can be read now, by step, then name."""
        previous, known = self._known, {}
        settled = time.time_ns() - _TICK
        found = []
        for name in self._directory.names():
            try:
                mark = self._mark(name)  # first: a change during the reading is then noticed
                previous_mark, checkpoint = previous.get(name, (None, None))
                if checkpoint is None or previous_mark != mark:
                    checkpoint = self._directory.open(name)
            except (OSError, CheckpointError):
                continue  # removed meanwhile, or damaged
            if mark.changed < settled:
                known[name] = mark, checkpoint
            found.append(checkpoint)
        self._known = known
        return sorted(found, key=by_age)

    def _mark(self, name: str) -> _Mark:
        state = os.lstat(f"{self._directory.checkpoints_path}/{name}")
        return _Mark(state.st_ino, state.st_ctime_ns)
