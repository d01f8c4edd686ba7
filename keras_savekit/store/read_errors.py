"""Tells what an exception says: that content is damaged, or only that the system failed.

A file that is missing, is no plain file, or has other content than was written is
evidence of damage. Any other errno, and a lack of memory, says nothing of the file:
another process, or the same one a minute later, may read it without an error.
HDF5 raises the same types for both, so its messages are read too.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from typing import TypeVar

from keras_savekit.errors import CheckpointError, UnverifiableError

T = TypeVar("T")

# What is under the name is not what was written: it is missing, a link, a folder, a socket.
DAMAGE = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENAMETOOLONG}
)
# Raised by us, or by seeking before a file's first byte, without a failure of the system.
_CONTENT = DAMAGE | {errno.EFBIG}
_NUMBER = re.compile(r"\berrno = (\d+)")
_NO_MEMORY = re.compile(
    r"memory allocation failed|(?:can't|unable to|couldn't) alloc\w*|out of memory"
    r"|cannot allocate memory",
    re.IGNORECASE,
)


def system_failure(error: BaseException) -> int:
    """The errno of the failure of the system that `error` reports; 0 if it reports content.

    What caused `error` counts too: libraries translate what the system raises.
    """
    number = _failure(error)
    cause = error.__cause__ or error.__context__
    while not number and cause is not None:
        number = _failure(cause)
        if number == errno.EINVAL:  # a seek to before the first byte of a file that is too short
            number = 0
        cause = cause.__cause__ or cause.__context__
    return number


def _failure(error: BaseException) -> int:
    if isinstance(error, UnverifiableError):
        return error.number or errno.EIO
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    number = error.errno if isinstance(error, OSError) else None
    if number is None:
        found = _NUMBER.search(str(error))
        number = int(found.group(1)) if found else 0
    if not number and not isinstance(error, CheckpointError) and _NO_MEMORY.search(str(error)):
        return errno.ENOMEM
    return 0 if number in _CONTENT else number


def unverifiable(error: BaseException, where: str = "") -> UnverifiableError | None:
    """What to raise for `error` if the system failed, None if it is evidence of damage."""
    if isinstance(error, UnverifiableError):
        return error
    number = system_failure(error)
    if not number:
        return None
    remedy = _REMEDIES.get(number, "")
    return UnverifiableError(f"cannot be read: {os.strerror(number)}", where, remedy, number)


def unreadable(what: str, where: str, error: BaseException) -> CheckpointError:
    """What to raise for `error`, met while reading a checkpoint or a model's file.

    UnverifiableError if the system failed, else CheckpointError.

    what: what is wrong if it is the content.
    """
    return unverifiable(error, where) or CheckpointError(f"{what}: {error}", where)


def retried(read: Callable[[], T]) -> T:
    """What `read` returns, called once more if the system failed."""
    try:
        return read()
    except UnverifiableError:
        pass
    return read()  # outside: the first failure is not the cause of what this one finds


_REMEDIES = {
    errno.EMFILE: "let the process open more files (`ulimit -n`), or close some",
    errno.ENFILE: "the machine has no more open files to give; end other programs",
    errno.ENOMEM: "free some memory, or raise the limit of this process",
    errno.EACCES: "allow reading it",
    errno.EPERM: "allow reading it",
    errno.ESTALE: "mount the file system again",
}
