"""Which entries of a run's directory are ours: leftovers by place, files by the manifest.

All other entries belong to the user and are never deleted, under any name.
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
from keras_savekit.store.manifest import MANIFEST, PINNED, VERIFICATION
from keras_savekit.store.manifest_json import read_outline
from keras_savekit.store.naming import CheckpointName, Leftover

PROBE = "probe"  # an empty file or directory that only tests whether it can be made
# Files of checkpoints, used when the manifest cannot be read.
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


def is_ours(leftover: Leftover, place: str, path: Path) -> bool:
    """Whether this package makes entries of this name and type in this place.

    place: the directory that contains it: `checkpoints`, `quarantine`, or empty for the run's.
    """
    named = leftover.target in _WRITTEN[place].get(leftover.kind, ())
    if place == "checkpoints" and leftover.kind in ("scratch", "removing"):
        named = named or CheckpointName.parse(leftover.target) is not None
    try:
        state = os.lstat(path)
    except OSError:
        return False  # it no longer exists
    if leftover.kind in ("scratch", "removing"):
        return named and stat.S_ISDIR(state.st_mode)
    if leftover.kind == "link" and stat.S_ISLNK(state.st_mode):
        return named
    allowed_size = leftover.target != PROBE or state.st_size == 0
    return named and allowed_size and stat.S_ISREG(state.st_mode)


def is_running(pid: int) -> bool:
    """Whether a process with this id runs on this machine."""
    return os.path.exists(f"/proc/{pid}")  # noqa: PTH110


@dataclass(frozen=True, slots=True)
class Belongings:
    """The entries of a checkpoint's directory.

    files: ours, relative to it; the manifest, which names the others, comes last.
    folders: the directories that lead to them, the innermost first.
    foreign: all other entries: files, links, whole directories.
    """

    path: Path
    files: tuple[str, ...]
    folders: tuple[str, ...]
    foreign: tuple[str, ...]

    def delete(self) -> None:
        """Delete our files, then the directory, which must be empty. Raises OSError."""
        for name in self.files:
            syscalls.unlink(self.path / name, missing_ok=True)
        for name in self.folders:
            syscalls.rmdir(self.path / name)
        syscalls.rmdir(self.path)


def list_belongings(path: Path) -> Belongings:
    """List the directory of a checkpoint that is to be removed. Raises OSError."""
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
