"""All system calls that change or read a run's directory, so that a test can intercept them.

The functions have the names, arguments and errors of the system calls. In a test,
`watched` routes each call through a function, which may record it, raise, shorten a
write, or end the process.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_FICLONERANGE = 0x4020940D

# How a file system says that it has no such call: NFS, FUSE, object mounts, FAT.
UNSUPPORTED = frozenset(
    {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EPERM, errno.ENOLCK, errno.EBADF}
)

# Given the call's name, what makes it, and its arguments; returns what the call returns.
Watcher = Callable[..., Any]

_watcher: Watcher | None = None


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Replace each call, on all threads, by `watcher(name, call, *arguments)`."""
    global _watcher  # noqa: PLW0603 - one disk, so one place
    before, _watcher = _watcher, watcher
    try:
        yield
    finally:
        _watcher = before


def _do(name: str, call: Callable[..., T], *arguments: Any) -> T:
    watcher = _watcher
    if watcher is None:
        return call(*arguments)
    result: T = watcher(name, call, *arguments)
    return result


# Files by descriptor.


def open(path: Path | str, flags: int, mode: int = 0o666) -> int:  # noqa: A001 - the system's own name
    """Open a file and return a descriptor that no child inherits."""
    return _do("open", os.open, path, flags | os.O_CLOEXEC, mode)


def close(descriptor: int) -> None:
    """Close a descriptor. It is closed even if this raises."""
    _do("close", os.close, descriptor)


@contextmanager
def opened(path: Path | str, flags: int, mode: int = 0o666) -> Iterator[int]:
    """A descriptor that is closed at the end; what `close` reports counts."""
    descriptor = open(path, flags, mode)
    with closing(descriptor):
        yield descriptor


@contextmanager
def closing(descriptor: int) -> Iterator[None]:
    """Close a descriptor at the end; an error of `close` is raised."""
    try:
        yield
    except BaseException:
        with suppress(OSError):  # the first error says more
            close(descriptor)
        raise
    close(descriptor)


def write(descriptor: int, data: Any) -> int:
    """Write as much of `data` as the disk takes; return the number of bytes."""
    return _do("write", os.write, descriptor, data)


def pwrite(descriptor: int, data: Any, offset: int) -> int:
    """Write at an offset as much of `data` as the disk takes; return the number of bytes."""
    return _do("pwrite", os.pwrite, descriptor, data, offset)


def preadv(descriptor: int, buffers: list[Any], offset: int) -> int:
    """Read into `buffers` from an offset; return the number of bytes."""
    return _do("preadv", os.preadv, descriptor, buffers, offset)


def pread(descriptor: int, count: int, offset: int) -> bytes:
    """Read up to `count` bytes from an offset."""
    return _do("pread", os.pread, descriptor, count, offset)


def set_direct(descriptor: int, wanted: bool) -> bool:
    """Make reads and writes bypass the page cache, or not; return whether they do."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~os.O_DIRECT
    with suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | (os.O_DIRECT if wanted else 0))
        return wanted
    return False


def clone(source: int, target: int, offset: int, size: int) -> None:
    """Share a range of blocks between two files (`man ioctl_ficlonerange`)."""
    request = struct.pack("qQQQ", source, offset, size, offset)
    _do("clone", fcntl.ioctl, target, _FICLONERANGE, request)


def fsync(descriptor: int) -> bool:
    """Wait until a file or directory is on the disk; return False where that is unsupported.

    Do not call it again after it raises: Linux reports a lost page once, and the next
    call succeeds although the page is lost.
    """
    try:
        _do("fsync", os.fsync, descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return False
    return True


def flock(descriptor: int, operation: int) -> None:
    """Acquire or release a lock, as `fcntl.flock` does."""
    _do("flock", fcntl.flock, descriptor, operation)


# Names.


def mkdir(path: Path, mode: int = 0o777) -> None:
    """Make one directory."""
    _do("mkdir", os.mkdir, path, mode)


def chmod(path: Path, mode: int) -> None:
    """Set the access mode."""
    _do("chmod", os.chmod, path, mode)


def rename(source: Path, target: Path) -> None:
    """Rename an entry; it may replace a file or an empty directory."""
    _do("rename", os.rename, source, target)


def replace(source: Path, target: Path) -> None:
    """Rename a file; it may replace another file."""
    _do("replace", os.replace, source, target)


def symlink(target: str, path: Path) -> None:
    """Make a symbolic link."""
    _do("symlink", os.symlink, target, path)


def unlink(path: Path, *, missing_ok: bool = False) -> None:
    """Remove a file or a link."""
    with suppress(*(FileNotFoundError,) * missing_ok):
        _do("unlink", os.unlink, path)


def rmdir(path: Path) -> None:
    """Remove an empty directory."""
    _do("rmdir", os.rmdir, path)


def remove_tree(path: Path) -> None:
    """Remove a directory with all its content, without following links."""
    for at, folders, files, here in os.fwalk(path, topdown=False, onerror=_raise):
        for name in files:
            _do("unlink", _in(os.unlink, name, here), Path(at, name))
        for name in folders:
            # A link to a directory is removed like a file.
            linked = Path(at, name).is_symlink()
            remove, what = (os.unlink, "unlink") if linked else (os.rmdir, "rmdir")
            _do(what, _in(remove, name, here), Path(at, name))
    rmdir(path)


def listdir(path: Path) -> list[str]:
    """The names in a directory, in no particular order."""
    return _do("listdir", os.listdir, path)


def readlink(path: Path) -> str:
    """The target of a symbolic link."""
    target: str = _do("readlink", os.readlink, path)
    return target


# Libraries.


def library(name: str, call: Callable[..., T], *arguments: Any) -> T:
    """Call a library's function that reads the disk by itself; return its result."""
    return _do(name, call, *arguments)


# Whole files.


def read_bytes(path: Path) -> bytes:
    """Read a whole file."""
    return _do("read", Path.read_bytes, path)


def retry_once(read: Callable[[], T]) -> T:
    """Call `read`, and once more if it raises OSError: one failure proves nothing about a file."""
    with suppress(OSError):
        return read()
    return read()  # outside `with`: the first failure is not the cause of the second


def write_new(path: Path, data: bytes, *, sync: bool = False) -> bool:
    """Write a file that does not exist yet; return whether it is synced to the disk."""
    with opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as descriptor:
        view = memoryview(data)
        while view:
            view = view[write(descriptor, view) :]
        return sync and fsync(descriptor)


def _in(call: Callable[..., None], name: str, folder: int) -> Callable[[Path], None]:
    return lambda _: call(name, dir_fd=folder)


def _raise(error: OSError) -> None:
    raise error
