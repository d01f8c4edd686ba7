"""Decide whether an exception is evidence of damage or only of a failure of the system.

Evidence of damage is a file that is missing, is no regular file, or has other content
than was written. Any other errno, and a lack of memory, is no evidence: another process,
or the same one a minute later, may read the file without an error.
HDF5 raises the same exception types for both, so its messages are parsed too.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from typing import TypeVar

from keras_savekit.errors import CheckpointError, UnverifiableError

T = TypeVar("T")

# The entry of that name is not the file that was written: missing, a link, a directory, a socket.
DAMAGE = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENAMETOOLONG}
)
# Raised by this package too, without a failure of the system.
_CONTENT = DAMAGE | {errno.EFBIG}
_NUMBER = re.compile(r"\berrno = (\d+)")
_NO_MEMORY = re.compile(
    r"memory allocation failed|(?:can't|unable to|couldn't) alloc\w*|out of memory"
    r"|cannot allocate memory",
    re.IGNORECASE,
)


def system_failure(error: BaseException) -> int:
    """The errno of the system failure that `error` reports; 0 if the content is at fault.

    The causes of `error` count too: libraries translate the exceptions of the system.
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
    """The exception to raise for `error` if the system failed, None if it proves damage."""
    if isinstance(error, UnverifiableError):
        return error
    number = system_failure(error)
    if not number:
        return None
    remedy = _REMEDIES.get(number, "")
    return UnverifiableError(f"cannot be read: {os.strerror(number)}", where, remedy, number)


def unreadable(what: str, where: str, error: BaseException) -> CheckpointError:
    """The exception to raise for `error`, which occurred while a checkpoint or model was read.

    UnverifiableError if the system failed, else CheckpointError.

    what: the message if the content is at fault.
    """
    return unverifiable(error, where) or CheckpointError(f"{what}: {error}", where)


def retry_unverifiable(read: Callable[[], T]) -> T:
    """Call `read`, and once more if it raises UnverifiableError; return its result."""
    try:
        return read()
    except UnverifiableError:
        pass
    return read()  # outside `except`: the first failure is not the cause of the second


_REMEDIES = {
    errno.EMFILE: "let the process open more files (`ulimit -n`), or close some",
    errno.ENFILE: "the machine cannot open more files; end other programs",
    errno.ENOMEM: "free some memory, or raise the limit of this process",
    errno.EACCES: "allow reading it",
    errno.EPERM: "allow reading it",
    errno.ESTALE: "mount the file system again",
}
