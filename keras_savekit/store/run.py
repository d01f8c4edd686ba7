"""A run's directory: list, open, remove, set aside, link.

Every change is complete or not there: what a crash leaves behind has a
temporary name and goes at the next `sweep`. Writing is for the holder of
`lock`; reading needs no lock, and finds whole checkpoints at any time. Names
are never followed out of the directory. What to keep, what to verify and what
to resume from is decided elsewhere.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from keras_savekit.base.key import Key
from keras_savekit.errors import CheckpointError, DirectoryError
from keras_savekit.store import run_info, syscalls
from keras_savekit.store.atomic import (
    LEFTOVERS,
    disk_errors,
    made_link,
    no_more_open_than,
    publish,
    read_link,
    replace_link,
    scratch_for,
    sync_directory,
    temporary_name,
    write_bytes_durably,
)
from keras_savekit.store.checkpoint_lock import hold_exclusive, hold_shared, is_read
from keras_savekit.store.event_log import EventLog
from keras_savekit.store.manifest import (
    PINNED,
    VERIFICATION,
    Manifest,
    Verification,
    read_outline,
    read_verification,
    to_json,
)
from keras_savekit.store.naming import CheckpointName
from keras_savekit.store.read_errors import unverifiable
from keras_savekit.store.run_info import RUN, RunInfo
from keras_savekit.store.run_lock import RunLock

CHECKPOINTS = "checkpoints"
QUARANTINE = "quarantine"

Link = Literal["latest", "best"]
LINKS: tuple[Link, ...] = ("latest", "best")
Status = Literal["verified", "unverified", "failed"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One published checkpoint whose manifest could be read.

    verification: its last, None if there is none that can be read.
    pinned: a person said that it stays.
    """

    path: Path
    manifest: Manifest
    verification: Verification | None
    pinned: bool = False

    @property
    def name(self) -> str:
        """The name of its directory."""
        return os.path.basename(self.path)  # noqa: PTH119  # of ten thousand, in a list

    @property
    def status(self) -> Status:
        """What its last verification says."""
        found = self.verification
        if found is None or (found.good and not found.done):
            return "unverified"
        return "verified" if found.good else "failed"


def by_age(checkpoint: Checkpoint) -> tuple[int, str]:
    """What checkpoints are sorted by: the step, then the name."""
    return checkpoint.manifest.moment.step, checkpoint.name


class Scan(NamedTuple):
    """Everything that stands among the checkpoints.

    checkpoints: by step, then name.
    damaged: the rest, by name, each with what is wrong with it.
    """

    checkpoints: list[Checkpoint]
    damaged: list[tuple[str, CheckpointError]]


class RunDirectory:
    """The directory of one run. Making this object touches nothing on disk.

    key: that its manifests are signed with, and must be.
    """

    def __init__(self, path: Path, key: Key | None = None) -> None:
        self.path = path
        self.key = key
        self.checkpoints_path = path / CHECKPOINTS
        self.quarantine_path = path / QUARANTINE
        self.events = EventLog(path / "events.jsonl")
        self.lock = RunLock(path)

    @property
    def exists(self) -> bool:
        """Whether this is the directory of a run."""
        return self.checkpoints_path.is_dir() or (self.path / RUN).is_file()

    def prepare(self) -> None:
        """Makes the directories that are missing and proves that they can be written.

        Raises DirectoryError if they cannot, or a version wrote them that this
        one does not know.
        """
        self.run_info()
        _require_own(self.checkpoints_path)
        _require_own(self.quarantine_path)
        for directory in (self.path, self.checkpoints_path, self.quarantine_path):
            with disk_errors("make the directory", directory):
                _make_durably(directory, within=self.path)
            probe = temporary_name(".writing-", directory / "probe")
            with disk_errors("write into the directory", directory):
                syscalls.write_new(probe, b"")
                syscalls.unlink(probe)
        probe = self.checkpoints_path / "probe"
        before, after = (temporary_name(prefix, probe) for prefix in (".scratch-", ".removing-"))
        with disk_errors("rename a directory", self.checkpoints_path):
            syscalls.mkdir(before)
            syscalls.rename(before, after)
            syscalls.rmdir(after)

    def lost(self) -> tuple[str, ...]:
        """What the file system lacks, each with what is lost by that. For the lock's holder."""
        probe = temporary_name(".writing-", self.path / "probe")
        link = temporary_name(".link-", self.path / "probe")
        with disk_errors("write into the directory", self.path):
            synced = syscalls.write_new(probe, b"", sync=True)
            syscalls.unlink(probe)
            linked = made_link(probe.name, link)
            if linked:
                syscalls.unlink(link)
            names_synced = sync_directory(self.path)
        lacks = (
            (synced, "syncing of files: a loss of power may damage the newest checkpoints"),
            (names_synced, "syncing of directories: a loss of power may take the newest ones"),
            (linked, "links: latest and best are text files that hold the path"),
            (not self.lock.lost, self.lock.lost),
        )
        return tuple(text for has, text in lacks if not has)

    # Reading.

    def scan(self) -> Scan:
        """All checkpoints, and whatever stands among them that is none."""
        found = {name: self._opened(name) for name in self.names()}
        checkpoints = [each for each in found.values() if isinstance(each, Checkpoint)]
        damaged = [
            (name, each)
            for name, each in found.items()
            # Else removed since it was listed: the run goes on while we look.
            if isinstance(each, CheckpointError) and os.path.lexists(self.checkpoints_path / name)
        ]
        checkpoints.sort(key=by_age)
        return Scan(checkpoints, damaged)

    def names(self) -> list[str]:
        """What stands among the checkpoints, whatever it is, by name."""
        return list(_visible(self.checkpoints_path))

    def checkpoints(self) -> list[Checkpoint]:
        """All checkpoints whose manifest can be read, by step, then name."""
        return self.scan().checkpoints

    def damaged(self) -> list[tuple[str, CheckpointError]]:
        """What stands among the checkpoints and is none, by name, with the reason."""
        return self.scan().damaged

    def open(self, name: str) -> Checkpoint:
        """The checkpoint `name`.

        Raises CheckpointError if there is none, or it is not what its name says,
        DirectoryError if the checkpoints are not in the run's own directory.
        """
        _require_own(self.checkpoints_path)
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
        found = (manifest.moment.step, manifest.plan)
        if found != (parsed.step, parsed.plan):
            raise CheckpointError(
                f"the manifest is of another checkpoint: step {found[0]}, plan {found[1]}",
                str(path),
            )
        return Checkpoint(
            path,
            manifest,
            _verification(path),
            os.path.exists(f"{path}/{PINNED}"),  # noqa: PTH110
        )

    def linked(self, which: Link) -> str | None:
        """The name of the checkpoint that a link leads to, None if it leads to none."""
        text = read_link(self.path / which)
        if text is None:
            return None
        target = Path(text)
        name = target.name
        inside = target == Path(CHECKPOINTS, name) and CheckpointName.parse(name) is not None
        return name if inside and (self.checkpoints_path / name).is_dir() else None

    def quarantined(self) -> list[tuple[str, Verification | None]]:
        """What was set aside, by name, each with what was found wrong with it."""
        return [
            (name, _verification(self.quarantine_path / name))
            for name in _visible(self.quarantine_path)
        ]

    def run_info(self) -> RunInfo | None:
        """What the directory says about its run, None if it says nothing yet.

        Raises DirectoryError if that cannot be read, or is of a format that
        this version does not know.
        """
        return run_info.read(self.path / RUN)

    # For anyone, while training goes on too.

    def pin(self, name: str, *, pinned: bool) -> None:
        """Have the checkpoint `name` never removed by a policy, or take that back.

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
        """The path of the checkpoint `name`, which nobody removes or sets aside meanwhile.

        Raises CheckpointError if there is no such checkpoint, or it is just being removed.
        """
        path = self.open(name).path
        with hold_shared(path):
            if not path.is_dir():  # it went between the two
                raise CheckpointError("there is no such checkpoint", str(path))
            yield path

    def being_read(self, name: str) -> bool:
        """Whether anyone reads the checkpoint `name` now, in this process or another."""
        return is_read(self.checkpoints_path / name)

    # Writing: for the holder of the lock.

    def write_run_info(self, policy: Mapping[str, Any]) -> RunInfo:
        """Records the policy as resolved; the run's id is made the first time, then kept."""
        return run_info.write(self.path / RUN, policy)

    def new_scratch(self, name: str) -> Path:
        """Makes an empty directory in which the checkpoint `name` can be written."""
        return scratch_for(self._place(name))

    def publish(self, scratch: Path, name: str) -> Path:
        """Makes a finished scratch directory the checkpoint `name`; see `commit.publish`."""
        target = self._place(name)
        publish(scratch, target)
        return target

    def record(self, name: str, verification: Verification) -> Checkpoint:
        """Writes down how a verification of the checkpoint `name` ended.

        Raises CheckpointError if there is no such checkpoint, DirectoryError if
        the disk refuses; the verification before it then still stands.
        """
        checkpoint = self.open(name)
        self._write_verification(checkpoint.path, verification)
        return replace(checkpoint, verification=verification)

    def remove(self, name: str) -> bool:
        """Removes the checkpoint `name` and the links to it, unless someone is reading it.

        Returns whether it is gone now.

        Raises DirectoryError if the disk refuses. It is then whole, or gone
        from the list with some files left for `sweep`.
        """
        path = self._entry(name)
        if not os.path.lexists(path):
            return True
        with hold_exclusive(path) as ours:
            if not ours:
                return False
            self._unlink_from(name)
            condemned = temporary_name(".removing-", path)
            with disk_errors("remove", path):
                syscalls.rename(path, condemned)
                sync_directory(self.checkpoints_path)
        with disk_errors("remove", path):
            _delete(condemned)
        return True

    def quarantine(self, name: str, verification: Verification) -> Path:
        """Moves an entry, damaged or not, out of the checkpoints, and says why beside it.

        Arguments:
            name: an entry of the checkpoints, whatever it is.
            verification: what was found, at which depth, and when.

        Returns where it is now. Raises DirectoryError if the disk refuses; it
        is then still listed, or already set aside, and never in between.
        """
        path = self._entry(name)
        _require_own(self.quarantine_path)
        with disk_errors("set aside", path):
            path.lstat()
            if not self.quarantine_path.is_dir():
                syscalls.mkdir(self.quarantine_path)
            target = _free(self.quarantine_path / name)
            self._unlink_from(name)
            # The reason first: what stands in quarantine always says why.
            bare = path.is_symlink() or not path.is_dir()
            if bare or (path / VERIFICATION).is_dir():
                syscalls.mkdir(target)  # what has no room for it inside gets a directory around it
                self._write_verification(target, verification)
                syscalls.rename(path, target / name)
                sync_directory(target)
            else:
                self._write_verification(path, verification)
                syscalls.rename(path, target)
            sync_directory(self.quarantine_path)
            sync_directory(self.checkpoints_path)
        return target

    def link(self, which: Link, name: str | None) -> None:
        """Makes `latest` or `best` lead to the checkpoint `name`, or to none.

        Raises DirectoryError if there is no such checkpoint; the link is then
        what it was.
        """
        link = self.path / which
        if name is None:
            if read_link(link) is not None:
                with disk_errors("remove the link", link):
                    syscalls.unlink(link)
                    sync_directory(self.path)
            return
        path = self._place(name)
        if path.is_symlink() or not path.is_dir():
            raise DirectoryError("there is no such checkpoint to link to", str(path))
        target = f"{CHECKPOINTS}/{name}"
        if read_link(link) != target:
            replace_link(link, target)

    def sweep(self) -> list[str]:
        """Removes what crashes left behind, and links that lead nowhere.

        Only for the holder of the lock: another writer's scratch looks the same.
        Returns the names that were removed, relative to the run's directory.
        """
        gone: list[str] = []
        _require_own(self.checkpoints_path)
        _require_own(self.quarantine_path)
        for directory in (self.path, self.checkpoints_path, self.quarantine_path):
            for entry in _entries(directory):
                if entry.startswith(LEFTOVERS):
                    with disk_errors("remove", directory / entry):
                        _delete(directory / entry)
                    gone.append(str((directory / entry).relative_to(self.path)))
        for which in LINKS:
            if read_link(self.path / which) is not None and self.linked(which) is None:
                self.link(which, None)
                gone.append(which)
        return gone

    def _opened(self, name: str) -> Checkpoint | CheckpointError:
        try:
            return self.open(name)
        except CheckpointError as error:
            return error

    def _place(self, name: str) -> Path:
        if CheckpointName.parse(name) is None:
            raise DirectoryError(
                f"{name!r} is not the name of a checkpoint", str(self.checkpoints_path)
            )
        return self.checkpoints_path / name

    def _entry(self, name: str) -> Path:
        if name in ("", ".", "..") or name.startswith(LEFTOVERS) or "/" in name or "\0" in name:
            raise DirectoryError(f"{name!r} is not a name", str(self.checkpoints_path))
        return self.checkpoints_path / name

    def _unlink_from(self, name: str) -> None:
        # Before it goes: a link never leads to something missing.
        for which in LINKS:
            if self.linked(which) == name:
                self.link(which, None)

    def _write_verification(self, path: Path, verification: Verification) -> None:
        # Through the parent: a temporary file inside would be a finding after a crash.
        write_bytes_durably(
            path / VERIFICATION, to_json(verification), through=self.checkpoints_path
        )


def followed(path: Path) -> Path:
    """A directory, or the checkpoint that a run's link `latest` or `best` leads to.

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


def _verification(path: Path) -> Verification | None:
    try:
        return read_verification(path)
    except CheckpointError:
        return None  # says nothing that can be trusted, so the checkpoint is unverified


def _entries(directory: Path) -> list[str]:
    with disk_errors("list", directory):
        try:
            return sorted(syscalls.listdir(directory))
        except FileNotFoundError:
            return []


def _visible(directory: Path) -> Iterator[str]:
    _require_own(directory)
    return (name for name in _entries(directory) if not name.startswith("."))


def _require_own(directory: Path) -> None:
    with disk_errors("look at", directory):
        linked = directory.is_symlink()
    if linked:
        remedy = "make it a directory; a link to the whole run is followed"
        raise DirectoryError("is a link, which is not followed", str(directory), remedy)


def _make_durably(directory: Path, within: Path) -> None:
    missing = [each for each in (directory, *directory.parents) if not each.exists()]
    for each in reversed(missing):
        syscalls.mkdir(each, no_more_open_than(each.parent) if within in each.parents else 0o777)
        sync_directory(each.parent)
    if not directory.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))


def _free(path: Path) -> Path:
    candidate, number = path, 1
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_name(f"{path.name}.{number}")
    return candidate


def _delete(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        syscalls.unlink(path, missing_ok=True)
    else:
        syscalls.remove_tree(path)
