"""The one way something appears on disk: complete, or not at all.

The promise: once a function here has returned, what it wrote survives the death
of the process, of the machine, and the loss of power. Interrupted at any point,
the name it was to give holds what it held before, whole; what is left over has
the name of a `naming.Leftover`, and may be deleted by whoever holds the
directory's lock.

Its limits: the disk must not lie about `fsync`; the file system must rename
atomically, as all local ones and NFS do; file systems that cannot sync (some
network ones answer EINVAL) are trusted to keep what is written, in order; where
there are no links, a text file that holds the path stands for one.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from keras_savekit.errors import DirectoryError
from keras_savekit.store import syscalls
from keras_savekit.store.naming import Kind, Leftover

_LONGEST_PATH = 4096
_REMEDIES = {
    errno.ENOSPC: "free some space, or choose a directory on another disk",
    errno.EFBIG: "no file may grow so large here; raise the limit (`ulimit -f`)",
    errno.EDQUOT: "the quota is used up; free some space, or choose another directory",
    errno.EACCES: "allow writing there, or choose another directory",
    errno.EPERM: "allow writing there, or choose another directory",
    errno.EROFS: "the file system is read-only; choose a directory elsewhere",
    errno.ENOTDIR: "a file stands where a directory is needed; choose another directory",
}


@contextmanager
def disk_errors(doing: str, where: Path) -> Iterator[None]:
    """Translates OSError into DirectoryError: the only seam between the two in `store`."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "")
        raise DirectoryError(f"cannot {doing}: {error.strerror}", str(where), remedy) from error


def publish(scratch: Path, target: Path) -> None:
    """Gives a finished directory its name, durably and by one rename.

    Arguments:
        scratch: a directory on the file system of `target`, with plain files
            and directories in it, which nobody writes to any more.
        target: a name beside which nothing may stand yet.

    Raises DirectoryError if `target` exists or the disk refuses. After a
    failure `target` is what it was, and `scratch` still stands.
    """
    if os.path.lexists(target):
        raise DirectoryError(
            "already exists and is never overwritten", str(target), "choose another name"
        )
    with disk_errors("publish", target):
        # Contents before names: a name that survives a crash leads to whole files.
        for folder, _, names in os.walk(scratch, topdown=False, onerror=_raise):
            for name in names:
                _sync_file(Path(folder, name))
            sync_directory(Path(folder))
        syscalls.rename(scratch, target)  # one system call, as promised
        try:
            sync_directory(target.parent)
        except OSError:
            syscalls.rename(target, scratch)  # what a loss of power may undo is not published
            raise


def scratch_for(target: Path) -> Path:
    """Makes a fresh directory beside `target`, to be filled and published as it."""
    scratch = temporary_name("scratch", target)
    with disk_errors("make a directory", scratch):
        syscalls.mkdir(scratch, no_more_open_than(scratch.parent))
    return scratch


def discard(scratch: Path) -> None:
    """Gives the disk space back; what cannot be removed goes at the next sweep."""
    with suppress(OSError):
        syscalls.remove_tree(scratch)


def write_bytes_durably(path: Path, data: bytes, *, through: Path | None = None) -> None:
    """Writes a small file, replacing the one of that name whole.

    Arguments:
        path: the file.
        data: its whole content.
        through: a directory of the same file system for the temporary file;
            the one of `path` if None.

    Raises DirectoryError if the disk refuses; the file is then the old one, or,
    if all that failed was the last sync, the new one.
    """
    temporary = temporary_name("writing", (through or path.parent) / path.name)
    with disk_errors("write", path):
        try:
            syscalls.write_new(temporary, data, sync=True)
            syscalls.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                syscalls.unlink(temporary, missing_ok=True)
            raise
        sync_directory(path.parent)


def publish_file(scratch: Path, target: Path) -> None:
    """Gives a finished file its name, durably and by one rename, over whatever stood there.

    Raises DirectoryError if the disk refuses; `target` is then what it was.
    """
    with disk_errors("write", target):
        if target.is_file():
            syscalls.chmod(scratch, stat.S_IMODE(target.stat().st_mode))
        _sync_file(scratch)
        syscalls.replace(scratch, target)
        sync_directory(target.parent)


def read_link(link: Path) -> str | None:
    """Where a link of `replace_link` leads; None if none stands there."""
    try:
        if link.is_symlink():
            return syscalls.readlink(link)
        if not link.is_file() or link.stat().st_size > _LONGEST_PATH:
            return None
        text = syscalls.read_bytes(link).decode()
    except (OSError, ValueError):
        return None
    target, end, rest = text.partition("\n")
    return target if end and not rest and "/" in target else None


def replace_link(link: Path, target_relative: str) -> None:
    """Makes `link` lead to `target_relative`, which has a `/`, whether it exists or not.

    A symbolic link, replaced in one step; a text file where there are none.

    Raises DirectoryError if something other than a link stands there, or the
    disk refuses; the link is then the old one.
    """
    if os.path.lexists(link) and read_link(link) is None:
        raise DirectoryError("is not a link and is left alone", str(link), "move it elsewhere")
    temporary = temporary_name("link", link)
    with disk_errors("set the link", link):
        try:
            if not made_link(target_relative, temporary):
                syscalls.write_new(temporary, f"{target_relative}\n".encode(), sync=True)
            syscalls.replace(temporary, link)
        except OSError:
            with suppress(OSError):
                syscalls.unlink(temporary, missing_ok=True)
            raise
        sync_directory(link.parent)


def made_link(target: str, path: Path) -> bool:
    """Makes a symbolic link; False where the file system has none."""
    try:
        syscalls.symlink(target, path)
    except OSError as error:
        if error.errno not in syscalls.UNSUPPORTED:
            raise
        return False
    return True


def sync_directory(path: Path) -> bool:
    """Makes the names in `path` durable; False where the file system does not know how to."""
    with syscalls.opened(path, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        return syscalls.fsync(descriptor)


def no_more_open_than(directory: Path) -> int:
    """The mode for a directory in `directory`: who may not read that one gets nothing in it.

    By names that can be guessed, others could else reach into a directory that
    they may pass through and not list.
    """
    mode, around = 0o777, directory.stat().st_mode
    for theirs in (0o070, 0o007):
        if not around & theirs & 0o444:
            mode &= ~theirs
    return mode


def temporary_name(kind: Kind, target: Path) -> Path:
    """A name beside `target` that says what it is, for whom, and who made it."""
    return target.parent / str(Leftover(kind, target.name, os.getpid(), secrets.token_hex(4)))


def _sync_file(path: Path) -> None:
    if not stat.S_ISREG(path.lstat().st_mode):
        raise OSError(errno.EINVAL, f"{path.name} is not a plain file")
    with syscalls.opened(path, os.O_RDONLY | os.O_NOFOLLOW) as descriptor:
        syscalls.fsync(descriptor)


def _raise(error: OSError) -> None:
    raise error
