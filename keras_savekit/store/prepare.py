"""Make a run's directories and test what the file system can do, before a training writes.

The tests make empty files and directories with temporary names (`naming.Leftover`)
and remove them at once.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from keras_savekit.errors import DirectoryError
from keras_savekit.store import syscalls
from keras_savekit.store.atomic import (
    disk_errors,
    make_link,
    mode_within,
    sync_directory,
    temporary_name,
)
from keras_savekit.store.manifest import VERIFICATION
from keras_savekit.store.naming import LONGEST_PID, CheckpointName, Leftover
from keras_savekit.store.run import CHECKPOINTS, RunDirectory, require_no_link
from keras_savekit.store.run_info import DamagedError
from keras_savekit.store.run_writer import RunWriter


def prepare(run: RunDirectory, plans: Iterable[str] = ()) -> None:
    """Make the missing directories of a run and prove that they can be written.

    Comes before `RunWriter.acquire`: the lock is a file in the run's directory.

    plans: the names of the plans that will save there.

    Raises DirectoryError if a directory cannot be made or written, a name in it would be
    longer than the file system allows, or a version wrote it that this one does not know.
    """
    _require_short_names(run.path, plans)
    with suppress(DamagedError):  # `RunWriter.recover_run_info` mends it
        run.run_info()
    require_no_link(run.checkpoints_path)
    require_no_link(run.quarantine_path)
    for directory in (run.path, run.checkpoints_path, run.quarantine_path):
        with disk_errors("make the directory", directory):
            _make_durably(directory, within=run.path)
        probe = temporary_name("writing", directory / "probe")
        with disk_errors("write into the directory", directory):
            syscalls.write_new(probe, b"")
            syscalls.unlink(probe)
    probe = run.checkpoints_path / "probe"
    before, after = temporary_name("scratch", probe), temporary_name("removing", probe)
    with disk_errors("rename a directory", run.checkpoints_path):
        syscalls.mkdir(before)
        syscalls.rename(before, after)
        syscalls.rmdir(after)


def missing_features(run: RunWriter) -> tuple[str, ...]:
    """What the file system of a run lacks, each with what is lost by that."""
    probe = temporary_name("writing", run.path / "probe")
    link = temporary_name("link", run.path / "probe")
    with disk_errors("write into the directory", run.path):
        synced = syscalls.write_new(probe, b"", sync=True)
        syscalls.unlink(probe)
        linked = make_link(probe.name, link)
        if linked:
            syscalls.unlink(link)
        names_synced = sync_directory(run.path)
    features = (
        (synced, "syncing of files: a loss of power may damage the newest checkpoints"),
        (names_synced, "syncing of directories: a loss of power may take the newest ones"),
        (linked, "links: latest and best are text files that contain the path"),
        (not run.lock.limitation, run.lock.limitation),
    )
    return tuple(text for available, text in features if not available)


def _require_short_names(path: Path, plans: Iterable[str]) -> None:
    """Refuse a path in which the names of checkpoints would be too long for the file system."""
    existing = next(place for place in (path, *path.parents) if os.path.lexists(place))
    try:
        longest_name, longest_path = (
            os.pathconf(existing, limit) for limit in ("PC_NAME_MAX", "PC_PATH_MAX")
        )
    except OSError:
        return  # the file system states no limits
    longest = max(
        (CheckpointName(10**17, plan, 9) for plan in plans),
        key=lambda name: len(name.plan),
        default=CheckpointName(10**17, "p"),
    )
    scratch = str(Leftover("removing", str(longest), LONGEST_PID, "0" * 8))
    length = max(len(os.fsencode(part)) for part in (*path.parts, scratch))
    if length > longest_name:
        raise DirectoryError(
            f"a name would have {length} bytes, and the file system allows {longest_name}",
            str(path),
            "give the directory, or the policy's plans, shorter names",
        )
    length = len(os.fsencode(path / CHECKPOINTS / scratch / VERIFICATION))
    if length >= longest_path:
        raise DirectoryError(
            f"paths of checkpoints in it would have {length} bytes, and the system allows"
            f" {longest_path - 1}",
            str(path),
            "choose a directory with a shorter path",
        )


def _make_durably(directory: Path, within: Path) -> None:
    missing = [place for place in (directory, *directory.parents) if not place.exists()]
    for place in reversed(missing):
        syscalls.mkdir(place, mode_within(place.parent) if within in place.parents else 0o777)
        sync_directory(place.parent)
    if not directory.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
