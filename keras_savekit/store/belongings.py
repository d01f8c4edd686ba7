"""What in a run's directory is ours: leftovers by their place, files by a checkpoint's manifest.

Everything else is the user's. It is never deleted, whatever it is called.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from keras_savekit.errors import CheckpointError
from keras_savekit.store import syscalls
from keras_savekit.store.manifest import MANIFEST, PINNED, VERIFICATION, read_outline
from keras_savekit.store.naming import CheckpointName, Leftover

PROBE = "probe"  # what is made only to see whether it can be, and is empty
# Files of checkpoints, for one whose manifest cannot be read.
USUAL = ("model.h5", "model.keras", "model.weights.h5", "model.json", "state.h5")
_BESIDE = (MANIFEST, VERIFICATION, PINNED)
_WRITTEN: dict[str, dict[str, tuple[str, ...]]] = {
    "checkpoints": {"writing": (VERIFICATION, PROBE), "scratch": (PROBE,), "removing": (PROBE,)},
    "quarantine": {"writing": (PROBE,)},
    "": {
        "writing": ("savekit.json", "probe.npz", VERIFICATION, PROBE),
        "link": ("latest", "best", PROBE),
    },
}


def left_by_us(left: Leftover, place: str, path: Path) -> bool:
    """Whether we make something of this name and type there.

    place: the directory that it is in: `checkpoints`, `quarantine`, or empty for the run's.
    """
    named = left.target in _WRITTEN[place].get(left.kind, ())
    if place == "checkpoints" and left.kind in ("scratch", "removing"):
        named = named or CheckpointName.parse(left.target) is not None
    try:
        state = os.lstat(path)
    except OSError:
        return False  # it is gone
    if left.kind in ("scratch", "removing"):
        return named and stat.S_ISDIR(state.st_mode)
    if left.kind == "link" and stat.S_ISLNK(state.st_mode):
        return named
    empty = left.target != PROBE or state.st_size == 0
    return named and empty and stat.S_ISREG(state.st_mode)


def running(pid: int) -> bool:
    """Whether a process of this number runs here."""
    return os.path.exists(f"/proc/{pid}")  # noqa: PTH110


@dataclass(frozen=True, slots=True)
class Belongings:
    """What is in the directory of a checkpoint.

    files: ours, relative to it; the manifest, which names the others, is the last.
    folders: that lead to them, the innermost first.
    foreign: everything else: files, links, whole directories.
    """

    path: Path
    files: tuple[str, ...]
    folders: tuple[str, ...]
    foreign: tuple[str, ...]

    def delete(self) -> None:
        """Delete our files and, if nothing else is in it, the directory. OSError if it fails."""
        for name in self.files:
            syscalls.unlink(self.path / name, missing_ok=True)
        for name in self.folders:
            syscalls.rmdir(self.path / name)
        syscalls.rmdir(self.path)


def of_checkpoint(path: Path) -> Belongings:
    """What is in the directory of a checkpoint that is to be removed. OSError if the disk fails."""
    ours = {PurePosixPath(name).as_posix() for name in (*_promised(path), *_BESIDE)}
    leading = {str(parent) for name in ours for parent in PurePosixPath(name).parents}
    files: list[str] = []
    folders: list[str] = []
    foreign: list[str] = []
    for name, mode in _walk(path, leading):
        if stat.S_ISDIR(mode) and name in leading:
            folders.append(name)
        elif stat.S_ISREG(mode) and name in ours:
            files.append(name)
        else:
            foreign.append(name)
    files.sort(key=lambda name: name == MANIFEST)
    return Belongings(path, tuple(files), tuple(reversed(folders)), tuple(foreign))


def _promised(path: Path) -> tuple[str, ...]:
    with suppress(CheckpointError):
        return tuple(entry.name for entry in read_outline(path).files)
    return USUAL


def _walk(path: Path, leading: set[str]) -> Iterator[tuple[str, int]]:
    pending = [""]
    while pending:
        prefix = pending.pop()
        for entry in sorted(syscalls.listdir(path / prefix)):
            name = prefix + entry
            mode = os.lstat(path / name).st_mode
            yield name, mode
            if stat.S_ISDIR(mode) and name in leading:
                pending.append(f"{name}/")
