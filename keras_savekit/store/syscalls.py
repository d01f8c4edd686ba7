"""Every call by which a run's directory is changed or read, so that a test can come between.

Plain functions named after the calls of the system they make, with their
arguments and errors. In a test, `watched` lets a function stand around each
call: it may look on, raise, shorten a write, or end the process.
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
    """In here, on every thread, `watcher(name, call, *arguments)` stands for each call."""
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
    """A descriptor, which no child inherits."""
    return _do("open", os.open, path, flags | os.O_CLOEXEC, mode)


def close(descriptor: int) -> None:
    """Give a descriptor back. It is gone even if this raises."""
    _do("close", os.close, descriptor)


@contextmanager
def opened(path: Path | str, flags: int, mode: int = 0o666) -> Iterator[int]:
    """A descriptor that is closed at the end; what `close` reports counts."""
    descriptor = open(path, flags, mode)
    with closing(descriptor):
        yield descriptor


@contextmanager
def closing(descriptor: int) -> Iterator[None]:
    """Close a descriptor at the end; what `close` reports counts."""
    try:
        yield
    except BaseException:
        with suppress(OSError):  # the first error says more
            close(descriptor)
        raise
    close(descriptor)


def write(descriptor: int, data: Any) -> int:
    """Write what the disk takes of `data`; return how many bytes that was."""
    return _do("write", os.write, descriptor, data)


def pwrite(descriptor: int, data: Any, offset: int) -> int:
    """Write what the disk takes of `data` from a byte on; return how many bytes that was."""
    return _do("pwrite", os.pwrite, descriptor, data, offset)


def pwrite_all(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all of `data` from a byte on."""
    while data:
        written = pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def preadv(descriptor: int, buffers: list[Any], offset: int) -> int:
    """Read into `buffers` from a byte on; return how many bytes there were."""
    return _do("preadv", os.preadv, descriptor, buffers, offset)


def pread(descriptor: int, count: int, offset: int) -> bytes:
    """Up to `count` bytes from a byte on."""
    return _do("pread", os.pread, descriptor, count, offset)


def ftruncate(descriptor: int, size: int) -> None:
    """Set a file's size."""
    _do("ftruncate", os.ftruncate, descriptor, size)


def fallocate(descriptor: int, offset: int, size: int) -> None:
    """Have the disk reserve room."""
    _do("fallocate", os.posix_fallocate, descriptor, offset, size)


def set_direct(descriptor: int, wanted: bool) -> bool:
    """Whether reads and writes go past the page cache from now on, if the kernel agrees."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~os.O_DIRECT
    with suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | (os.O_DIRECT if wanted else 0))
        return wanted
    return False


def clone(source: int, target: int, offset: int, size: int) -> None:
    """Let a file have the same blocks as another from a byte on (`man ioctl_ficlonerange`)."""
    asked = struct.pack("qQQQ", source, offset, size, offset)
    _do("clone", fcntl.ioctl, target, _FICLONERANGE, asked)


def fsync(descriptor: int) -> bool:
    """Wait until a file or directory is on the disk; False where nothing can be waited for.

    Not to be tried again when it raises: Linux tells of a lost page once, and the
    next call succeeds although the page is gone.
    """
    try:
        _do("fsync", os.fsync, descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return False
    return True


def flock(descriptor: int, operation: int) -> None:
    """Take or give back a lock, as `fcntl.flock`."""
    _do("flock", fcntl.flock, descriptor, operation)


# Names.


def mkdir(path: Path, mode: int = 0o777) -> None:
    """Make one directory."""
    _do("mkdir", os.mkdir, path, mode)


def chmod(path: Path, mode: int) -> None:
    """Set who may do what."""
    _do("chmod", os.chmod, path, mode)


def rename(source: Path, target: Path) -> None:
    """Give something another name, over whatever may be replaced there."""
    _do("rename", os.rename, source, target)


def replace(source: Path, target: Path) -> None:
    """Give a file another name, over the one that stands there."""
    _do("replace", os.replace, source, target)


def symlink(target: str, path: Path) -> None:
    """Make a link."""
    _do("symlink", os.symlink, target, path)


def unlink(path: Path, *, missing_ok: bool = False) -> None:
    """Remove a file or a link."""
    with suppress(*(FileNotFoundError,) * missing_ok):
        _do("unlink", os.unlink, path)


def rmdir(path: Path) -> None:
    """Remove an empty directory."""
    _do("rmdir", os.rmdir, path)


def remove_tree(path: Path) -> None:
    """Remove a directory and all that is in it, following no links."""
    for at, folders, files, here in os.fwalk(path, topdown=False, onerror=_raise):
        for name in files:
            _do("unlink", _in(os.unlink, name, here), Path(at, name))
        for name in folders:
            # A link to a directory is a name like any other.
            linked = Path(at, name).is_symlink()
            remove, what = (os.unlink, "unlink") if linked else (os.rmdir, "rmdir")
            _do(what, _in(remove, name, here), Path(at, name))
    rmdir(path)


def listdir(path: Path) -> list[str]:
    """The names in a directory, in no order."""
    return _do("listdir", os.listdir, path)


def readlink(path: Path) -> str:
    """Where a link leads."""
    target: str = _do("readlink", os.readlink, path)
    return target


# Libraries.


def library(name: str, call: Callable[..., T], *arguments: Any) -> T:
    """What `call` returns: a library's function that reads the disk by itself."""
    return _do(name, call, *arguments)


# Whole files.


def read_bytes(path: Path) -> bytes:
    """All of a file."""
    return _do("read", Path.read_bytes, path)


def retry_once(read: Callable[[], T]) -> T:
    """What `read` returns, asked again if the disk fails: once says nothing of what is there."""
    with suppress(OSError):
        return read()
    return read()  # outside: the first failure is not the cause of what this one finds


def write_new(path: Path, data: bytes, *, sync: bool = False) -> bool:
    """Write a file that is not there yet; return whether it is on the disk for good."""
    with opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as descriptor:
        view = memoryview(data)
        while view:
            view = view[write(descriptor, view) :]
        return sync and fsync(descriptor)


def _in(call: Callable[..., None], name: str, folder: int) -> Callable[[Path], None]:
    return lambda _: call(name, dir_fd=folder)


def _raise(error: OSError) -> None:
    raise error
