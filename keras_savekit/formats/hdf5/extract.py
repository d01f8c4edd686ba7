"""Read tensors from HDF5 files, also from those inside an archive."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from keras_savekit.base.defects import DefectError
from keras_savekit.base.tensors import Array
from keras_savekit.errors import CheckpointError
from keras_savekit.formats.directio.memory import allocate_pages
from keras_savekit.formats.directio.reader import FileReader
from keras_savekit.formats.dtypes import narrow, parse_dtype
from keras_savekit.formats.hdf5 import access
from keras_savekit.formats.hdf5.datasets import own_dataset
from keras_savekit.formats.hdf5.template import ALIGNED_FROM
from keras_savekit.store import syscalls
from keras_savekit.store.read_errors import unreadable


class Window(io.RawIOBase):
    """Read a file from a given byte on: an HDF5 file inside an archive."""

    def __init__(self, descriptor: int, base: int) -> None:
        super().__init__()
        self._descriptor, self._base, self._at = descriptor, base, 0

    def readinto(self, buffer: Any) -> int:
        """Read bytes into `buffer`; return how many."""
        count = syscalls.preadv(self._descriptor, [buffer], self._base + self._at)
        self._at += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a byte, counted from the start of the window, the position or the end."""
        end = os.fstat(self._descriptor).st_size - self._base
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: end}[whence]
        return self._at

    def tell(self) -> int:
        """Return the position."""
        return self._at


@contextmanager
def open_hdf5(path: Path, base: int = 0) -> Iterator[tuple[h5py.File, int]]:
    """Open an HDF5 file that begins at byte `base` of `path`; give it and a descriptor."""
    with syscalls.opened(path, os.O_RDONLY | os.O_NOFOLLOW) as descriptor:
        if base:
            with access.open_for_reading(Window(descriptor, base)) as file:
                yield file, descriptor
        else:
            with access.open_for_reading(path) as file:
                yield file, descriptor


def read(path: Path, wanted: Iterable[tuple[str, str]], base: int = 0) -> list[Array]:
    """Read tensors from a file that this package wrote.

    wanted: the path of each dataset and the dtype of its variable.
    base: the byte at which HDF5 begins in the file.

    Raises CheckpointError if the file or a dataset cannot be read, UnverifiableError if the
    system is the reason.
    """
    try:
        with ExitStack() as stack:
            file, _ = stack.enter_context(open_hdf5(path, base))
            plain = stack.enter_context(syscalls.opened(path, os.O_RDONLY | os.O_NOFOLLOW))
            reader = stack.enter_context(FileReader(plain))
            return [
                narrow(_read_dataset(own_dataset(file, name), reader, base), parse_dtype(dtype))
                for name, dtype in wanted
            ]
    except DefectError as error:
        raise CheckpointError(f"cannot be read: a tensor {error.what}", str(path)) from error
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        raise unreadable("cannot be read", str(path), error) from error


def _read_dataset(dataset: h5py.Dataset, reader: FileReader, base: int) -> Array:
    """Read a dataset. A large one is read without HDF5 and the page cache, in half the time."""
    offset, size = dataset.id.get_offset(), dataset.nbytes
    if offset is None or size < ALIGNED_FROM or dataset.id.get_storage_size() != size:
        return np.asarray(dataset)
    memory = allocate_pages(size)
    count = reader.fill(base + offset, memory.data)
    if count < size:
        raise OSError(f"{dataset.name} ends {size - count} bytes too early")
    value: Array = memory.view(dataset.dtype).reshape(dataset.shape)
    return value
