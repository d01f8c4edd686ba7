"""Open HDF5 files. No other module does.

By default, HDF5 locks a file that it opens by name, and fails if the file system has no
locks. Published files never change, so this lock is switched off. The lock of the run's
directory protects the rest.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import h5py

from keras_savekit.store import syscalls


def open_for_reading(source: Path | Any) -> h5py.File:
    """Open a file, or an object that reads like one, for reading.

    Raises any error of h5py; `store.read_errors` decides whether it is evidence of damage.
    """
    return syscalls.retry_once(lambda: syscalls.library("hdf5", _open, source))


def _open(source: Path | Any) -> h5py.File:
    try:
        return h5py.File(source, "r", locking=False)
    except OSError as error:
        # This process has the file open with a lock, and HDF5 does not open it another way.
        if "locking flag values don't match" not in str(error):
            raise
    return h5py.File(_Unnamed(source), "r")


class _Unnamed(io.FileIO):
    """A file without a name for HDF5. It is closed when HDF5 drops its last reference."""

    def __del__(self) -> None:
        self.close()


def open_in_memory(memory: Any, mode: str, *, align_from: int, align_to: int) -> h5py.File:
    """Open a file in memory. Its large datasets begin at multiples of `align_to` bytes."""
    return h5py.File(
        memory, mode, locking=False, alignment_threshold=align_from, alignment_interval=align_to
    )
