"""Writing an HDF5 file whose tensors go to the disk from where they lie.

h5py lays a form out in memory: groups, attributes and contiguous datasets with
their space reserved and never touched. That and the tensors then go to the disk
in the order of their offsets, outside HDF5's process-wide lock, and are digested
on the way, so that the digests describe what was in memory and not what came
back from a file.

Which groups and datasets a file has is the business of the formats.
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
from keras_savekit.formats.dtypes import widened
from keras_savekit.formats.hdf5.template import ALIGNED_FROM, Template
from keras_savekit.store import syscalls
from keras_savekit.store.manifest import FileEntry


@dataclass(frozen=True, slots=True)
class Written:
    """A file that was written, and what it promises.

    begin: the byte at which HDF5 begins in it.
    shared: bytes that it shares with the file before it.
    digests: of the values in it by position, as far as known.
    """

    path: Path
    form: Template
    begin: int
    shared: int
    entry: FileEntry
    digests: Mapping[int, str]


def write(
    stream: FileWriter, form: Template, values: Sequence[Array], base: Written | None = None
) -> Written:
    """Write `values` into a new file of this form.

    base: a file written before; what is equal in both is shared, where the disk can.

    The file is not synced: publishing does that. Raises OSError as the system
    does; a file is then left half written, in a directory nobody lists.
    """
    digests = write_into(stream, stream.write, form, values, base)
    return Written(stream.path, form, 0, stream.shared, stream.entry(), digests)


def write_into(
    stream: FileWriter,
    write: Callable[[memoryview], object],
    form: Template,
    values: Sequence[Array],
    base: Written | None = None,
) -> dict[int, str]:
    """Write an HDF5 file piece by piece, from its first byte to its last.

    stream: where it goes to, by way of `write`.

    Returns the xxh3_128 of the values by position, each in its own dtype; those
    are missing that HDF5 compressed.
    """
    digests: dict[int, str] = {}
    at = 0
    with _sharing(stream, form, base) as around:
        for extent in form.extents:
            _copy_between(form.descriptor, at, extent.offset, write)
            value, at = values[extent.position], extent.offset
            digest = xxhash.xxh3_128()
            with around(extent.position, value):
                for own, stored in _pieces(value, extent.dtype):
                    digest.update(own)
                    write(stored)
                    at += len(stored)
            digests[extent.position] = digest.hexdigest()
        _copy_between(form.descriptor, at, form.size, write)
    return digests


@contextmanager
def _sharing(
    stream: FileWriter, form: Template, base: Written | None
) -> Iterator[Callable[[int, Array], AbstractContextManager[None]]]:
    """Gives what to write each value in, so that what `base` holds too is shared with it."""
    with ExitStack() as stack:
        source: int | None = None
        digests: Mapping[int, str] = {}
        if base is not None and base.form is form and base.begin == stream.size:
            digests = base.digests
            with suppress(OSError):  # it may have been removed since
                source = stack.enter_context(
                    syscalls.opened(base.path, os.O_RDONLY | os.O_NOFOLLOW)
                )

        def around(position: int, value: Array) -> AbstractContextManager[None]:
            if source is None or value.nbytes < ALIGNED_FROM:
                return nullcontext()
            same = tensor_digest(value) == digests.get(position)
            return stream.sharing(source) if same else nullcontext()

        yield around


def _copy_between(
    descriptor: int, start: int, end: int, write: Callable[[memoryview], object]
) -> None:
    """What HDF5 itself wrote between two tensors."""
    while start < end:
        piece = os.pread(descriptor, min(PIECE, end - start), start)
        if not piece:
            raise OSError(f"the file ends at byte {start}, {end} expected")
        write(memoryview(piece))
        start += len(piece)


def _pieces(value: Array, dtype: str | None) -> Iterator[tuple[memoryview, memoryview]]:
    """The bytes of `value` a few MB at a time: its own, and as they are stored."""
    flat = np.ascontiguousarray(value).reshape(-1)
    stored = np.dtype(dtype) if dtype else flat.dtype
    per_piece = max(1, PIECE // max(flat.itemsize, stored.itemsize))
    for start in range(0, flat.size, per_piece):
        piece = flat[start : start + per_piece]
        own = piece.view(np.uint8).data
        if stored.kind != "V" and stored != piece.dtype:
            yield own, widened(piece, stored).view(np.uint8).data
        else:
            yield own, own
