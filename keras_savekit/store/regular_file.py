"""Plain files: found without leaving their directory, read without waiting, and only so much.

What stands under a name that a file gave may be anything: a link to elsewhere, a
pipe that nobody writes to, a device without an end.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path, PurePosixPath

from keras_savekit.base.defects import DefectError
from keras_savekit.store import syscalls

# Not following and not waiting: the file may have changed since a look at it.
FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def inside(directory: Path, name: str) -> Path:
    """The plain file `name` of a directory.

    Only a relative path without `..`, none of whose parts is a link, stays
    inside. Raises DefectError for any other, OSError if the disk does.
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
    """A name as text that UTF-8 can hold, whatever bytes it has on the disk."""
    return name.encode("utf-8", "backslashreplace").decode()


def content(path: str | Path, limit: int) -> bytes:
    """All of a file that is plain, no link, and has at most `limit` bytes. Else OSError."""
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
