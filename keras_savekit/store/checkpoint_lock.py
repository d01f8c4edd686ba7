"""Locks of single checkpoints: a checkpoint that a process reads is not removed.

A reader holds a shared `flock` on the checkpoint's directory, a remover an exclusive
one during the rename. The kernel releases the locks when their process ends, so they
leave no files. Where the file system has no such locks, reading and removing work
without this protection.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keras_savekit.errors import CheckpointError
from keras_savekit.store import syscalls
from keras_savekit.store.read_errors import system_failure, unverifiable


@contextmanager
def hold_shared(path: Path) -> Iterator[None]:
    """Prevent the directory `path` from being removed inside this context.

    Raises CheckpointError if it does not exist, or is being removed; UnverifiableError if
    the system cannot open it.
    """
    try:
        descriptor = _open(path)
    except OSError as error:
        known = unverifiable(error, str(path))
        raise known or CheckpointError("there is no such checkpoint", str(path)) from error
    try:
        try:
            syscalls.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError("is being removed", str(path)) from None
        except OSError:
            pass  # no such locks here
        yield
    finally:
        syscalls.close(descriptor)


@contextmanager
def hold_exclusive(path: Path) -> Iterator[bool]:
    """Give True if no process reads the directory `path`; none starts to inside this context."""
    try:
        descriptor = _open(path)
    except OSError as error:
        # If it is no directory, no process reads it. If the system failed, that is unknown.
        yield not system_failure(error)
        return
    try:
        try:
            syscalls.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:
            pass  # no such locks here
        yield True
    finally:
        syscalls.close(descriptor)


def is_read(path: Path) -> bool:
    """Whether any process reads the directory `path` now."""
    with hold_exclusive(path) as unread:
        return not unread


def _open(path: Path) -> int:
    return syscalls.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
