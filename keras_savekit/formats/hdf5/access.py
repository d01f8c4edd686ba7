"""The only place that opens HDF5 files.

HDF5 takes a lock of its own on a file that it opens by name, and refuses to open it
where the file system has no locks. A published file never changes, so that lock
protects nothing: it is switched off. The run's directory has a lock of ours.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import h5py

from keras_savekit.store import syscalls


def reading(source: Path | Any) -> h5py.File:
    """Open a file, or an object that reads like one, for reading.

    Raises whatever h5py does; `store.read_errors` says whether that is evidence of damage.
    """
    return syscalls.retry_once(lambda: syscalls.library("hdf5", _open, source))


def _open(source: Path | Any) -> h5py.File:
    try:
        return h5py.File(source, "r", locking=False)
    except OSError as error:
        # HDF5 opens no file twice in one process, and somebody has it open with the lock.
        if "locking flag values don't match" not in str(error):
            raise
    return h5py.File(_Opened(source), "r")


class _Opened(io.FileIO):
    """A file that HDF5 knows nothing of but its bytes; closed when HDF5 lets go of it."""

    def __del__(self) -> None:
        self.close()


def in_memory(memory: Any, mode: str, *, align_from: int, align_to: int) -> h5py.File:
    """Open a file in memory, whose large datasets begin at multiples of `align_to` bytes."""
    return h5py.File(
        memory, mode, locking=False, alignment_threshold=align_from, alignment_interval=align_to
    )
