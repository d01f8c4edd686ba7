"""Who reads a checkpoint, so that nobody removes it meanwhile.

A reader holds a shared `flock` on the checkpoint's directory itself, a remover
an exclusive one for as long as the rename takes. The kernel gives locks up when
their process ends, so nothing is left behind. Where the file system has no such
locks, nothing is protected, and reading and removing go on as ever.
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
    """Nobody removes the directory `path` in here.

    Raises CheckpointError if it is gone, or just being removed, UnverifiableError if the
    system cannot open it.
    """
    try:
        descriptor = _opened(path)
    except OSError as error:
        known = unverifiable(error, str(path))
        raise known or CheckpointError("there is no such checkpoint", str(path)) from error
    try:
        try:
            syscalls.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError("is just being removed", str(path)) from None
        except OSError:
            pass  # no such locks here
        yield
    finally:
        syscalls.close(descriptor)


@contextmanager
def hold_exclusive(path: Path) -> Iterator[bool]:
    """Whether nobody reads the directory `path`, and nobody begins to in here."""
    try:
        descriptor = _opened(path)
    except OSError as error:
        # Not a directory is no checkpoint to be read. Else it is not known who reads it.
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
    """Whether anyone reads the directory `path` now."""
    with hold_exclusive(path) as free:
        return not free


def _opened(path: Path) -> int:
    return syscalls.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
