"""Atomic and durable writes: the only way to create something in a run's directory.

The promise: when a function here returns, the data survives the death of the process
or the machine, and a loss of power. If it is interrupted at any point, the target name
still has its previous content, whole. Leftovers have the name of a `naming.Leftover`;
the holder of the directory's lock may delete them.

The limits: the disk must do what `fsync` promises. The file system must rename atomically,
as all local ones and NFS do. File systems that cannot sync (some network ones answer
EINVAL) are trusted to keep written data, in order. Where there are no symbolic links, a
text file contains the path instead.
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
    errno.ENOTDIR: "a file is where a directory is needed; choose another directory",
}


@contextmanager
def disk_errors(doing: str, where: Path) -> Iterator[None]:
    """Translate OSError into DirectoryError: the only seam between the two in `store`."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "")
        raise DirectoryError(f"cannot {doing}: {error.strerror}", str(where), remedy) from error


def publish(scratch: Path, target: Path) -> None:
    """Give a finished directory its name, durably and by one rename.

    scratch: a directory on the file system of `target` that contains only regular files
        and directories, and is no longer written.
    target: a name that does not exist yet.

    Raises DirectoryError if `target` exists or the disk refuses. After a
    failure `target` is unchanged, and `scratch` still exists.
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
            syscalls.rename(target, scratch)  # a loss of power could undo it: not published
            raise


def make_scratch(target: Path) -> Path:
    """Make an empty directory beside `target`, to be filled and published as `target`."""
    scratch = temporary_name("scratch", target)
    with disk_errors("make a directory", scratch):
        syscalls.mkdir(scratch, mode_within(scratch.parent))
    return scratch


def discard(scratch: Path) -> None:
    """Delete a scratch directory; the next sweep removes what cannot be deleted now."""
    with suppress(OSError):
        syscalls.remove_tree(scratch)


def write_bytes_durably(path: Path, data: bytes, *, through: Path | None = None) -> None:
    """Write a small file, or replace it atomically.

    data: its whole content.
    through: a directory of the same file system for the temporary file;
        the parent of `path` if None.

    Raises DirectoryError if the disk refuses; the file is then the old one, or,
    if only the last sync failed, the new one.
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
    """Give a finished file its name, durably and by one rename; replace the existing file.

    Raises DirectoryError if the disk refuses; `target` is then unchanged.
    """
    with disk_errors("write", target):
        if target.is_file():
            syscalls.chmod(scratch, stat.S_IMODE(target.stat().st_mode))
        _sync_file(scratch)
        syscalls.replace(scratch, target)
        sync_directory(target.parent)


def read_link(link: Path) -> str | None:
    """The target of a link that `replace_link` made; None if `link` is no such link."""
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
    """Make `link` lead to `target_relative`, which contains a `/` and need not exist.

    A symbolic link, replaced in one step; a text file where there are no links.

    Raises DirectoryError if `link` exists and is no link, or the disk refuses; the link is
    then the old one.
    """
    if os.path.lexists(link) and read_link(link) is None:
        raise DirectoryError("is not a link and is left alone", str(link), "move it elsewhere")
    temporary = temporary_name("link", link)
    with disk_errors("set the link", link):
        try:
            if not make_link(target_relative, temporary):
                syscalls.write_new(temporary, f"{target_relative}\n".encode(), sync=True)
            syscalls.replace(temporary, link)
        except OSError:
            with suppress(OSError):
                syscalls.unlink(temporary, missing_ok=True)
            raise
        sync_directory(link.parent)


def make_link(target: str, path: Path) -> bool:
    """Make a symbolic link; return False where the file system has none."""
    try:
        syscalls.symlink(target, path)
    except OSError as error:
        if error.errno not in syscalls.UNSUPPORTED:
            raise
        return False
    return True


def sync_directory(path: Path) -> bool:
    """Make the names in `path` durable; return False where the file system cannot."""
    with syscalls.opened(path, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        return syscalls.fsync(descriptor)


def mode_within(parent: Path) -> int:
    """The mode of a new directory in `parent`: users who may not list `parent` get no access.

    Otherwise they could guess the new directory's name, where they may pass through
    `parent`.
    """
    mode, parent_mode = 0o777, parent.stat().st_mode
    for class_of_users in (0o070, 0o007):
        if not parent_mode & class_of_users & 0o444:
            mode &= ~class_of_users
    return mode


def temporary_name(kind: Kind, target: Path) -> Path:
    """A name beside `target` that states its kind, its target and the process that made it."""
    return target.parent / str(Leftover(kind, target.name, os.getpid(), secrets.token_hex(4)))


def _sync_file(path: Path) -> None:
    if not stat.S_ISREG(path.lstat().st_mode):
        raise OSError(errno.EINVAL, f"{path.name} is not a plain file")
    with syscalls.opened(path, os.O_RDONLY | os.O_NOFOLLOW) as descriptor:
        syscalls.fsync(descriptor)


def _raise(error: OSError) -> None:
    raise error
