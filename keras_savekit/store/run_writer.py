"""A run's directory, for its one writer: publish, record, remove, quarantine, link, sweep.

Every change is atomic: a crash leaves only entries with temporary names, and the next
`sweep` removes those.

Only entries that carry one of our names in full are removed, renamed or replaced
(`naming`, `belongings`): everything else in the directory belongs to the user and stays.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from keras_savekit.errors import DirectoryError
from keras_savekit.store import belongings, run_info, syscalls
from keras_savekit.store.atomic import (
    disk_errors,
    make_scratch,
    mode_within,
    publish,
    read_link,
    replace_link,
    sync_directory,
    temporary_name,
    write_bytes_durably,
)
from keras_savekit.store.checkpoint import Checkpoint
from keras_savekit.store.checkpoint_lock import hold_exclusive
from keras_savekit.store.manifest import VERIFICATION, Finding, Verification
from keras_savekit.store.manifest_json import to_json
from keras_savekit.store.naming import CheckpointName, Leftover
from keras_savekit.store.run import (
    CHECKPOINTS,
    LINKS,
    QUARANTINE,
    Link,
    RunDirectory,
    checkpoint_in_link,
    list_entries,
    require_no_link,
)
from keras_savekit.store.run_info import RUN, DamagedError, RunInfo
from keras_savekit.store.run_lock import RunLock

# Called with a directory in quarantine and the names of the user's files moved there.
OnRescue = Callable[[Path, tuple[str, ...]], None]
_TRIES = 3
_EXTRA = "was in a checkpoint that was removed, and is not part of it"


def _ignore_rescue(place: Path, names: tuple[str, ...]) -> None:
    pass


class RunWriter(RunDirectory):
    """The directory of one run together with its held lock: the right to change it.

    Also a context manager, which releases the lock at the end. Do not use it after that.
    """

    def __init__(self, directory: RunDirectory, lock: RunLock) -> None:
        if not lock.held or lock.directory != directory.path:
            raise ValueError(f"a writer of {directory.path} needs the held lock of that directory")
        super().__init__(directory.path, directory.key)
        self.events = directory.events  # one log object, which reports its failure once
        self.lock = lock

    @classmethod
    def acquire(cls, directory: RunDirectory) -> RunWriter:
        """Acquire the lock of a run.

        Raises DirectoryInUseError if any process holds it, this one included,
        DirectoryError if the directory cannot be written.
        """
        lock = RunLock(directory.path)
        lock.acquire()
        return cls(directory, lock)

    def release(self) -> None:
        """Release the lock. Does nothing if it is not held."""
        self.lock.release()

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def write_run_info(self, policy: Mapping[str, Any]) -> RunInfo:
        """Record the resolved policy. The first call makes the run's id, later ones keep it."""
        return run_info.write(self.path / RUN, policy)

    def recover_run_info(self) -> str:
        """Move a damaged `savekit.json` to quarantine; return what was done, empty if nothing.

        The run's id is taken from the newest checkpoint; if there is none, the next
        `write_run_info` makes a new one. Raises DirectoryError if the disk refuses.
        """
        try:
            self.run_info()
            return ""
        except DamagedError as error:
            reason = error.what
        newest = next(reversed(self.checkpoints()), None)
        path = self.path / RUN
        with disk_errors("quarantine", path):
            finding = Finding("unreadable", RUN, reason)
            target = self._move_to_quarantine(self.path, RUN, (RUN,), (finding,))
        if newest is None:
            source = "the run gets a new id"
        else:
            run_info.write(path, {}, newest.manifest.run)
            source = f"the run's id was taken from {newest.name}"
        return f"{RUN} was damaged ({reason}): moved to {target}, and {source}"

    def remake_checkpoints(self) -> bool:
        """Make `checkpoints/` again if it was deleted; return whether it was.

        Raises DirectoryError if the disk refuses, or the run's directory is gone too.
        """
        if os.path.lexists(self.checkpoints_path):
            return False
        with disk_errors("make the directory again", self.checkpoints_path):
            syscalls.mkdir(self.checkpoints_path, mode_within(self.path))
            sync_directory(self.path)
        return True

    def new_scratch(self, name: str) -> Path:
        """Make an empty directory in which the checkpoint `name` can be written."""
        return make_scratch(self._place(name))

    def publish(self, scratch: Path, name: str) -> Path:
        """Rename a finished scratch directory to the checkpoint `name`; see `atomic.publish`."""
        target = self._place(name)
        publish(scratch, target)
        return target

    def record(self, name: str, verification: Verification) -> Checkpoint:
        """Record the outcome of a verification of the checkpoint `name`.

        Raises CheckpointError if there is no such checkpoint, DirectoryError if
        the disk refuses; the previous record is then unchanged.
        """
        checkpoint = self.open(name)
        self._write_verification(checkpoint.path, verification)
        return replace(checkpoint, verification=verification)

    def remove(self, name: str, on_rescue: OnRescue = _ignore_rescue) -> bool:
        """Remove the checkpoint `name` and the links to it, unless a process reads it.

        The user's files in it are moved to quarantine first.

        on_rescue: called with the directory in quarantine and the names of those files.

        Returns whether it is gone now.

        Raises DirectoryError if the disk refuses, or the name belongs to something that is
        not a checkpoint. The checkpoint is then whole, or no longer listed and with some
        files left for `sweep`.
        """
        path = self._place(name)
        if not os.path.lexists(path):
            return True
        if path.is_symlink() or not path.is_dir():
            raise DirectoryError("is no checkpoint and is left alone", str(path))
        with hold_exclusive(path) as unread:
            if not unread:
                return False
            self._unlink_from(name)
            condemned = temporary_name("removing", path)
            with disk_errors("remove", path):
                syscalls.rename(path, condemned)
                sync_directory(self.checkpoints_path)
        self._delete_ours(condemned, name, on_rescue)
        return True

    def quarantine(self, name: str, verification: Verification) -> Path:
        """Move an entry with a checkpoint's name, damaged or not, to quarantine with the reason.

        name: of a checkpoint. Entries with other names belong to the user.
        verification: the findings, the depth and the time.

        Returns its path in quarantine. Raises DirectoryError if the disk refuses; the entry
        is then still listed, or already in quarantine.
        """
        path = self._place(name)
        with disk_errors("quarantine", path):
            path.lstat()
            self._require_quarantine()
            target = _free_name(self.quarantine_path / name)
            self._unlink_from(name)
            # The reason first: every entry of the quarantine has one.
            bare = path.is_symlink() or not path.is_dir()
            if bare or (path / VERIFICATION).is_dir():
                syscalls.mkdir(target)  # the reason has no place inside: add a directory around it
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
        """Make `latest` or `best` lead to the checkpoint `name`; None removes the link.

        Raises DirectoryError if there is no such checkpoint, or the link's name belongs to
        something that is not our link; that is then unchanged.
        """
        link = self.path / which
        if name is None:
            if self._name_in_link(which) is not None:
                with disk_errors("remove the link", link):
                    syscalls.unlink(link)
                    sync_directory(self.path)
            return
        path = self._place(name)
        if path.is_symlink() or not path.is_dir():
            raise DirectoryError("there is no such checkpoint to link to", str(path))
        target, text = f"{CHECKPOINTS}/{name}", read_link(link)
        if text == target:
            return
        if os.path.lexists(link) and checkpoint_in_link(text) is None:
            raise DirectoryError("is no link of ours and is left alone", str(link), "move it away")
        replace_link(link, target)

    def sweep(self) -> list[str]:
        """Remove the leftovers of crashes, and our links that lead to no checkpoint.

        Returns the names that were removed, relative to the run's directory.
        """
        removed: list[str] = []
        require_no_link(self.checkpoints_path)
        require_no_link(self.quarantine_path)
        for place in ("", CHECKPOINTS, QUARANTINE):
            for entry in list_entries(self.path / place):
                leftover, path = Leftover.parse(entry), self.path / place / entry
                if leftover is None or not belongings.is_ours(leftover, place, path):
                    continue
                # A probe may belong to a process that runs `prepare`, before it has the lock.
                probe = leftover.target == belongings.PROBE and leftover.pid != os.getpid()
                if probe and belongings.is_running(leftover.pid):
                    continue
                if self._remove_leftover(leftover, path):
                    removed.append(str(path.relative_to(self.path)))
        for which in LINKS:
            if self._name_in_link(which) is not None and self.linked(which) is None:
                self.link(which, None)
                removed.append(which)
        return removed

    def _remove_leftover(self, leftover: Leftover, path: Path) -> bool:
        probe = leftover.target == belongings.PROBE
        if leftover.kind == "removing" and not probe:
            self._delete_ours(path, leftover.target, _ignore_rescue)
            return True
        with disk_errors("remove", path):
            if path.is_symlink() or not path.is_dir():
                syscalls.unlink(path, missing_ok=not probe)
            elif not probe:
                syscalls.remove_tree(path)
            else:
                try:
                    syscalls.rmdir(path)
                except OSError as error:
                    if error.errno != errno.ENOTEMPTY:
                        raise
                    return False
        return True

    def _delete_ours(self, condemned: Path, name: str, on_rescue: OnRescue) -> None:
        """Delete our files of a former checkpoint; move all others to quarantine."""
        with disk_errors("remove", condemned):
            for _ in range(_TRIES):
                found = belongings.list_belongings(condemned)
                if found.foreign:
                    findings = tuple(Finding("extra", entry, _EXTRA) for entry in found.foreign)
                    place = self._move_to_quarantine(condemned, name, found.foreign, findings)
                    on_rescue(place, found.foreign)
                try:
                    found.delete()
                    return
                except OSError as error:  # another process added files meanwhile
                    if error.errno != errno.ENOTEMPTY:
                        raise
        raise DirectoryError("cannot remove: files appear in it", str(condemned))

    def _move_to_quarantine(
        self, source: Path, name: str, entries: Iterable[str], findings: tuple[Finding, ...]
    ) -> Path:
        """Move entries of `source` to a new directory in quarantine. OSError if the disk fails."""
        target = self._new_in_quarantine(name, findings)
        for entry in entries:
            place = _free_name(target / entry)
            for folder in reversed(place.relative_to(target).parents[:-1]):
                with suppress(FileExistsError):
                    syscalls.mkdir(target / folder)
            syscalls.rename(source / entry, place)
            sync_directory(place.parent)
        sync_directory(self.quarantine_path)
        return target

    def _new_in_quarantine(self, name: str, findings: tuple[Finding, ...]) -> Path:
        self._require_quarantine()
        target = _free_name(self.quarantine_path / name)
        syscalls.mkdir(target)
        verification = Verification("bytes", self.events.now(), findings)
        write_bytes_durably(target / VERIFICATION, to_json(verification), through=self.path)
        return target

    def _require_quarantine(self) -> None:
        require_no_link(self.quarantine_path)
        if not self.quarantine_path.is_dir():
            syscalls.mkdir(self.quarantine_path, mode_within(self.path))

    def _place(self, name: str) -> Path:
        if CheckpointName.parse(name) is None:
            raise DirectoryError(
                f"{name!r} is not the name of a checkpoint", str(self.checkpoints_path)
            )
        return self.checkpoints_path / name

    def _unlink_from(self, name: str) -> None:
        # Before the checkpoint goes: a link never leads to a missing one.
        for which in LINKS:
            if self.linked(which) == name:
                self.link(which, None)

    def _write_verification(self, path: Path, verification: Verification) -> None:
        # Through the parent: after a crash, a temporary file inside would be a finding.
        write_bytes_durably(
            path / VERIFICATION, to_json(verification), through=self.checkpoints_path
        )


def _free_name(path: Path) -> Path:
    candidate, number = path, 1
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_name(f"{path.name}.{number}")
    return candidate
