"""Regular files: resolve without leaving a directory, read without waiting and with a limit.

A name that a file states may lead to anything: a link out of the directory, a pipe
without a writer, a device without an end.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path, PurePosixPath

from keras_savekit.base.defects import DefectError
from keras_savekit.store import syscalls

# Follow no link and wait for no writer: the file may have changed since it was checked.
FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def resolve_inside(directory: Path, name: str) -> Path:
    """The path of the regular file `name` of a directory.

    Only a relative path without `..` and without links stays inside the directory.
    Raises DefectError for any other, OSError if the disk fails.
    """
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise DefectError("escape", f"the name {name!r} leads out of the checkpoint")
    at = directory
    for part in path.parts:
        at = at / part
        try:
            mode = at.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            raise DefectError("missing", "the file is missing") from None
        if stat.S_ISLNK(mode):
            raise DefectError("link", "is a link; links are not followed")
    if not stat.S_ISREG(mode):
        raise DefectError("unreadable", "is not a plain file")
    return at


def as_text(name: str) -> str:
    """Escape the bytes of a file name that are no UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def content(path: str | Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes. Raises OSError for any other."""
    return syscalls.retry_once(lambda: _content(path, limit))


def _content(path: str | Path, limit: int) -> bytes:
    with syscalls.opened(path, os.O_RDONLY | FLAGS) as descriptor:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise OSError(errno.ENXIO, "is not a plain file")  # as of a socket
        if state.st_size > limit:
            raise OSError(errno.EFBIG, f"has {state.st_size} bytes, more than {limit}")
        found = part = syscalls.pread(descriptor, state.st_size, 0)
        while part and len(found) < state.st_size:
            part = syscalls.pread(descriptor, state.st_size - len(found), len(found))
            found += part
        return found
