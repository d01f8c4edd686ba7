"""Write an HDF5 file from a template and the tensors, which are not copied first.

h5py builds the template in memory: groups, attributes and contiguous datasets with reserved,
untouched space. Template and tensors then go to the disk in the order of their offsets,
without HDF5's process-wide lock. Digests are computed meanwhile, so they describe what was
in memory and not what was read back.

The formats decide which groups and datasets a file has.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from keras_savekit.base.digests import tensor_digest
from keras_savekit.base.tensors import Array
from keras_savekit.formats.directio.writer import PIECE, FileWriter
from keras_savekit.formats.dtypes import widen
from keras_savekit.formats.hdf5.template import ALIGNED_FROM, Template
from keras_savekit.store import syscalls
from keras_savekit.store.manifest import FileEntry


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file that was written.

    begin: the byte at which HDF5 begins.
    shared: the number of bytes that it shares with the previous file.
    entry: the manifest's entry of the file.
    digests: position to digest of its values. Values that HDF5 compressed are missing.
    """

    path: Path
    template: Template
    begin: int
    shared: int
    entry: FileEntry
    digests: Mapping[int, str]


def write(
    stream: FileWriter, template: Template, values: Sequence[Array], base: WrittenFile | None = None
) -> WrittenFile:
    """Write `values` into a new file with this template.

    base: a previous file. Blocks that are equal in both are shared if the file system can.

    The file is not synced: publishing does that. Raises OSError if the system fails; an
    incomplete file then remains in the scratch directory.
    """
    digests = write_into(stream, stream.write, template, values, base)
    return WrittenFile(stream.path, template, 0, stream.shared, stream.entry(), digests)


def write_into(
    stream: FileWriter,
    write: Callable[[memoryview], object],
    template: Template,
    values: Sequence[Array],
    base: WrittenFile | None = None,
) -> dict[int, str]:
    """Write an HDF5 file piece by piece, from its first byte to its last.

    stream: the file that `write` writes to.

    Returns the xxh3_128 of the values by position, each in its own dtype. Values that HDF5
    compressed are missing.
    """
    digests: dict[int, str] = {}
    at = 0
    with _sharing(stream, template, base) as share:
        for extent in template.extents:
            _copy_between(template.descriptor, at, extent.offset, write)
            value, at = values[extent.position], extent.offset
            digest = xxhash.xxh3_128()
            with share(extent.position, value):
                for own, stored in _pieces(value, extent.dtype):
                    digest.update(own)
                    write(stored)
                    at += len(stored)
            digests[extent.position] = digest.hexdigest()
        _copy_between(template.descriptor, at, template.size, write)
    return digests


@contextmanager
def _sharing(
    stream: FileWriter, template: Template, base: WrittenFile | None
) -> Iterator[Callable[[int, Array], AbstractContextManager[None]]]:
    """Give a function that returns the context in which to write a value.

    In this context, a value that `base` contains too shares its blocks with `base`.
    """
    with ExitStack() as stack:
        source: int | None = None
        digests: Mapping[int, str] = {}
        if base is not None and base.template is template and base.begin == stream.size:
            digests = base.digests
            with suppress(OSError):  # retention may have removed it
                source = stack.enter_context(
                    syscalls.opened(base.path, os.O_RDONLY | os.O_NOFOLLOW)
                )

        def share(position: int, value: Array) -> AbstractContextManager[None]:
            if source is None or value.nbytes < ALIGNED_FROM:
                return nullcontext()
            same = tensor_digest(value) == digests.get(position)
            return stream.share_with(source) if same else nullcontext()

        yield share


def _copy_between(
    descriptor: int, start: int, end: int, write: Callable[[memoryview], object]
) -> None:
    """Write what the template contains between two tensors."""
    while start < end:
        piece = os.pread(descriptor, min(PIECE, end - start), start)
        if not piece:
            raise OSError(f"the file ends at byte {start}, {end} expected")
        write(memoryview(piece))
        start += len(piece)


def _pieces(value: Array, dtype: str | None) -> Iterator[tuple[memoryview, memoryview]]:
    """Yield the bytes of `value` in pieces of a few MB: as they are, and as they are stored."""
    flat = np.ascontiguousarray(value).reshape(-1)
    stored = np.dtype(dtype) if dtype else flat.dtype
    per_piece = max(1, PIECE // max(flat.itemsize, stored.itemsize))
    for start in range(0, flat.size, per_piece):
        piece = flat[start : start + per_piece]
        own = piece.view(np.uint8).data
        if stored.kind != "V" and stored != piece.dtype:
            yield own, widen(piece, stored).view(np.uint8).data
        else:
            yield own, own
