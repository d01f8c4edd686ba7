"""A run's directory, for readers: list, open, pin and protect checkpoints.

Reading needs no lock and finds whole checkpoints at any time. Names are never
followed out of the directory. `run_writer` changes the directory. Other packages
decide what to keep, what to verify and what to resume from.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from keras_savekit.base.key import Key
from keras_savekit.errors import CheckpointError, DirectoryError
from keras_savekit.store import run_info, syscalls
from keras_savekit.store.atomic import disk_errors, read_link, sync_directory
from keras_savekit.store.checkpoint import Checkpoint, Scan, by_age
from keras_savekit.store.checkpoint_lock import hold_shared, is_read
from keras_savekit.store.event_log import EventLog
from keras_savekit.store.manifest import PINNED, Verification, without_load_findings
from keras_savekit.store.manifest_json import read_outline, read_verification
from keras_savekit.store.naming import CheckpointName
from keras_savekit.store.read_errors import unverifiable
from keras_savekit.store.run_info import RUN, RunInfo

CHECKPOINTS = "checkpoints"
QUARANTINE = "quarantine"

Link = Literal["latest", "best"]
LINKS: tuple[Link, ...] = ("latest", "best")


class RunDirectory:
    """The directory of one run. Making this object touches nothing on disk.

    key: the key that its manifests are signed with and must be signed with.
    """

    def __init__(self, path: Path, key: Key | None = None) -> None:
        self.path = path
        self.key = key
        self.checkpoints_path = path / CHECKPOINTS
        self.quarantine_path = path / QUARANTINE
        self.events = EventLog(path / "events.jsonl")

    @property
    def exists(self) -> bool:
        """Whether this is the directory of a run."""
        # Not of pathlib, which raises an error for a path that is too long.
        checkpoints, info = self.checkpoints_path, self.path / RUN
        return os.path.isdir(checkpoints) or os.path.isfile(info)  # noqa: PTH112, PTH113

    def scan(self) -> Scan:
        """Read all checkpoints and classify all other entries among them."""
        foreign, found = [], {}
        for name in self.names():
            if CheckpointName.parse(name) is None:
                foreign.append(name)
            else:
                found[name] = self._open_or_error(name)
        checkpoints = [entry for entry in found.values() if isinstance(entry, Checkpoint)]
        damaged = [
            (name, entry)
            for name, entry in found.items()
            # Not one that was removed since it was listed: the run may continue meanwhile.
            if isinstance(entry, CheckpointError) and os.path.lexists(self.checkpoints_path / name)
        ]
        checkpoints.sort(key=by_age)
        return Scan(checkpoints, damaged, foreign)

    def names(self) -> list[str]:
        """The names of all entries among the checkpoints, sorted, without hidden ones."""
        return _visible_names(self.checkpoints_path)

    def checkpoints(self) -> list[Checkpoint]:
        """All checkpoints whose manifest can be read, by step, then name."""
        return self.scan().checkpoints

    def damaged(self) -> list[tuple[str, CheckpointError]]:
        """Entries that have a checkpoint's name but are none, by name, with the reason."""
        return self.scan().damaged

    def foreign(self) -> list[str]:
        """Names among the checkpoints that no checkpoint has, without hidden ones."""
        return [name for name in self.names() if CheckpointName.parse(name) is None]

    def open(self, name: str) -> Checkpoint:
        """Open the checkpoint `name`.

        Raises CheckpointError if there is none, or its manifest does not fit its name,
        DirectoryError if `checkpoints/` is a link.
        """
        require_no_link(self.checkpoints_path)
        path = self.checkpoints_path / name
        parsed = CheckpointName.parse(name)
        if parsed is None:
            raise CheckpointError("not the name of a checkpoint", str(path))
        try:
            mode = os.lstat(path).st_mode
        except OSError as error:
            known = unverifiable(error, str(path))
            raise known or CheckpointError("there is no such checkpoint", str(path)) from error
        if stat.S_ISLNK(mode):
            raise CheckpointError("is a link; links are not followed", str(path))
        if not stat.S_ISDIR(mode):
            raise CheckpointError("is not a directory", str(path))
        manifest = read_outline(path)
        step, plan = manifest.moment.step, manifest.plan
        if (step, plan) != (parsed.step, parsed.plan):
            raise CheckpointError(
                f"the manifest is of another checkpoint: step {step}, plan {plan}", str(path)
            )
        pinned = os.path.exists(f"{path}/{PINNED}")  # noqa: PTH110  # a list has ten thousand
        recorded = _verification(path)
        return Checkpoint(path, manifest, recorded and without_load_findings(recorded), pinned)

    def linked(self, which: Link) -> str | None:
        """The name of the checkpoint that a link leads to, None if it leads to none."""
        name = self._name_in_link(which)
        return name if name is not None and (self.checkpoints_path / name).is_dir() else None

    def occupied(self, which: Link) -> bool:
        """Whether the link's name is used by something that is not our link."""
        return os.path.lexists(self.path / which) and self._name_in_link(which) is None

    def _name_in_link(self, which: Link) -> str | None:
        """The checkpoint's name in our link, whether that checkpoint exists or not."""
        return checkpoint_in_link(read_link(self.path / which))

    def quarantined(self) -> list[tuple[str, Verification | None]]:
        """The entries of `quarantine/`, by name, each with the findings recorded in it."""
        return [
            (name, _verification(self.quarantine_path / name))
            for name in _visible_names(self.quarantine_path)
        ]

    def run_info(self) -> RunInfo | None:
        """Read `savekit.json`; None if there is none yet.

        Raises DamagedError if it is malformed, DirectoryError if it cannot be read, or
        is of a format that this version does not know.
        """
        return run_info.read(self.path / RUN)

    def pin(self, name: str, *, pinned: bool) -> None:
        """Pin or unpin the checkpoint `name`. No policy removes a pinned checkpoint.

        Allowed for anyone, also while a training runs.

        Raises CheckpointError if there is no such checkpoint, DirectoryError if
        the disk refuses.
        """
        with self.reading(name) as path, disk_errors("pin", path):
            if not pinned:
                syscalls.unlink(path / PINNED, missing_ok=True)
            elif not os.path.lexists(path / PINNED):  # a link there leads elsewhere
                syscalls.write_new(path / PINNED, b"")
            sync_directory(path)

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """Give the path of the checkpoint `name`; it is not removed or quarantined meanwhile.

        Raises CheckpointError if there is no such checkpoint, or it is being removed.
        """
        path = self.open(name).path
        with hold_shared(path):
            if not path.is_dir():  # removed before it was locked
                raise CheckpointError("there is no such checkpoint", str(path))
            yield path

    def being_read(self, name: str) -> bool:
        """Whether any process, this one included, reads the checkpoint `name` now."""
        return is_read(self.checkpoints_path / name)

    def _open_or_error(self, name: str) -> Checkpoint | CheckpointError:
        try:
            return self.open(name)
        except CheckpointError as error:
            return error


def resolve_link(path: Path) -> Path:
    """The directory `path`, or the checkpoint that a run's link `latest` or `best` leads to.

    Raises CheckpointError if such a link, or one among a run's checkpoints, leads out of the run.
    """
    if path.parent.name == CHECKPOINTS and path.is_symlink():
        raise CheckpointError("is a link; links are not followed", str(path))
    if path.name not in LINKS or not path.is_symlink() or not (path.parent / CHECKPOINTS).is_dir():
        return path
    run = RunDirectory(path.parent)
    name = run.linked(path.name)
    if name is None:
        raise CheckpointError("leads to no checkpoint of its run", str(path))
    return run.open(name).path


def checkpoint_in_link(text: str | None) -> str | None:
    """The checkpoint's name in the text of a link; None if the link is not ours."""
    folder, _, name = (text or "").partition("/")
    return name if folder == CHECKPOINTS and CheckpointName.parse(name) else None


def list_entries(directory: Path) -> list[str]:
    """The names of all entries of a directory, sorted; none if it does not exist."""
    with disk_errors("list", directory):
        try:
            return sorted(syscalls.listdir(directory))
        except FileNotFoundError:
            return []


def require_no_link(directory: Path) -> None:
    """Raise DirectoryError if a directory inside a run is a link, which may lead out of it."""
    with disk_errors("look at", directory):
        linked = directory.is_symlink()
    if linked:
        remedy = "make it a directory; a link to the whole run is followed"
        raise DirectoryError("is a link, which is not followed", str(directory), remedy)


def _visible_names(directory: Path) -> list[str]:
    require_no_link(directory)
    return [name for name in list_entries(directory) if not name.startswith(".")]


def _verification(path: Path) -> Verification | None:
    try:
        return read_verification(path)
    except CheckpointError:
        return None  # an unreadable record proves nothing, so the checkpoint is unverified
