"""Writing an HDF5 file whose tensors go to the disk from where they lie.

h5py lays the file out: groups, attributes and contiguous datasets with their
space reserved. The tensors are then written with `os.pwrite` at the offsets
HDF5 chose, outside its process-wide lock, and digested on the way, so that the
digests describe what was in memory and not what came back from a file.

Which groups and datasets a file has is the business of the formats.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import xxhash

from keras_savekit.errors import CheckpointError
from keras_savekit.formats.dtypes import by_name, narrowed, widened
from keras_savekit.formats.own import NotOwnError, own_dataset
from keras_savekit.formats.snapshot import Array
from keras_savekit.store.manifest import FileEntry

ALIGNMENT = 4096
ALIGNED_FROM = 64 * 1024
PIECE = 4 * 2**20
_ALIGNED = {"alignment_threshold": ALIGNED_FROM, "alignment_interval": ALIGNMENT}
Digest = Callable[[Any], object]
Compression = Literal["gzip", "lzf"] | None
ATTRIBUTE_LIMIT = 64512  # what Keras's own reader and writer split lists at


@dataclass(frozen=True, slots=True)
class Dataset:
    """One tensor's place in a file.

    position: which of the values given to `write` fills it.
    dtype: how it is stored, if that differs from the value's own dtype.
    """

    path: str
    position: int
    dtype: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything in a file except the tensors' bytes.

    compression: of tensors of 64 KiB and more; they are then written by HDF5 itself.
    groups: path of each group ("" is the file itself) to its attributes: texts,
        or lists of texts, which are split where they outgrow an attribute.
    """

    groups: Mapping[str, Mapping[str, str | bytes | Sequence[str]]]
    datasets: tuple[Dataset, ...]
    compression: Compression = None


@dataclass(frozen=True, slots=True)
class _Extent:
    offset: int
    position: int
    dtype: str | None


class Window(io.RawIOBase):
    """What lies in a file from a byte on, as a file: HDF5 inside an archive."""

    def __init__(self, descriptor: int, base: int) -> None:
        super().__init__()
        self._descriptor, self._base, self._at = descriptor, base, 0

    def readinto(self, buffer: Any) -> int:
        """Read what fits into `buffer`; return how much that was."""
        count = os.preadv(self._descriptor, [buffer], self._base + self._at)
        self._at += count
        return count

    def write(self, data: Any) -> int:
        """Write all of `data`; return its length."""
        view = memoryview(data).cast("B")
        _write_all(self._descriptor, view, self._base + self._at)
        self._at += len(view)
        return len(view)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte, counted from the window's begin, from here, or from the file's end."""
        end = os.fstat(self._descriptor).st_size - self._base
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: end}[whence]
        return self._at

    def tell(self) -> int:
        """The byte it stands at."""
        return self._at

    def truncate(self, size: int | None = None) -> int:
        """Set the size of what lies in the window."""
        size = self._at if size is None else size
        os.truncate(self._descriptor, self._base + size)
        return size


def write(path: Path, layout: Layout, values: Sequence[Array]) -> FileEntry:
    """Write `values` into a new file laid out as `layout`; return its size and digest.

    The file is not synced: publishing does that. Raises OSError as the system
    does; a file is then left half written, in a directory nobody lists.
    """
    with h5py.File(path, "x", **_ALIGNED) as file:
        extents = _lay_out(file, layout, values)
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    digest = xxhash.xxh3_128()
    try:
        size = _fill(descriptor, 0, extents, values, digest.update)
    finally:
        os.close(descriptor)
    return FileEntry(path.name, size, digest.hexdigest())


def write_at(
    descriptor: int, base: int, layout: Layout, values: Sequence[Array], digest: Digest
) -> int:
    """Write an HDF5 file into another file's end, from byte `base` on; return its size.

    digest: is given every byte once, in order.
    """
    with h5py.File(Window(descriptor, base), "w", **_ALIGNED) as file:
        extents = _lay_out(file, layout, values)
    return _fill(descriptor, base, extents, values, digest)


def _fill(
    descriptor: int, base: int, extents: list[_Extent], values: Sequence[Array], digest: Digest
) -> int:
    """Write the tensors in the order of their offsets; return the size of it all."""
    position = base
    for extent in sorted(extents, key=lambda extent: extent.offset):
        position = _digest_between(descriptor, position, base + extent.offset, digest)
        for piece in _pieces(values[extent.position], extent.dtype):
            digest(piece)
            _write_all(descriptor, piece, position)
            position += len(piece)
    return _digest_between(descriptor, position, os.fstat(descriptor).st_size, digest) - base


def _lay_out(file: h5py.File, layout: Layout, values: Sequence[Array]) -> list[_Extent]:
    extents = []
    for name, attributes in layout.groups.items():
        group = file.require_group(name) if name else file
        for key, value in attributes.items():
            write_attribute(group, key, value)
    for dataset in layout.datasets:
        tensor, dtype = values[dataset.position], stored_dtype(dataset, values)
        compressed = layout.compression is not None and tensor.nbytes >= ALIGNED_FROM
        if compressed:
            identifier = _compress(file, dataset.path, tensor, dtype, layout.compression)
        else:
            identifier = _reserve(file, dataset.path, tensor.shape, dtype)
        if dataset.attributes:
            handle = h5py.Dataset(identifier)
            for key, value in dataset.attributes.items():
                handle.attrs[key] = value
        offset = None if compressed else identifier.get_offset()
        if offset is not None:
            extents.append(_Extent(offset, dataset.position, dataset.dtype))
    return extents


def stored_dtype(dataset: Dataset, values: Sequence[Array]) -> np.dtype[Any]:
    """The dtype a value has in the file."""
    own = values[dataset.position].dtype
    return np.dtype(dataset.dtype) if dataset.dtype else own


def _compress(
    file: h5py.File, path: str, value: Array, dtype: np.dtype[Any], compression: Compression
) -> h5py.h5d.DatasetID:
    """Write a tensor in compressed chunks, its bytes shuffled first, as HDF5's manual advises."""
    stored = value.view(dtype) if dtype.kind == "V" else widened(value, dtype)
    made = file.create_dataset(
        path, data=stored, chunks=True, shuffle=True, compression=compression
    )
    return made.id


def _reserve(
    file: h5py.File, path: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> h5py.h5d.DatasetID:
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.CONTIGUOUS)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    links.set_char_encoding(h5py.h5t.CSET_UTF8)
    return h5py.h5d.create(
        file.id,
        path.encode(),
        h5py.h5t.py_create(dtype, logical=True),
        h5py.h5s.create_simple(shape) if shape else h5py.h5s.create(h5py.h5s.SCALAR),
        creation,
        links,
    )


def write_attribute(group: h5py.Group, key: str, value: str | bytes | Sequence[str]) -> None:
    """Write a text, or a list of texts split as Keras splits long ones."""
    if isinstance(value, (str, bytes)):
        group.attrs[key] = value
        return
    if not value:
        group.attrs[key] = np.zeros((0,))  # what h5py makes of Keras's empty list
        return
    encoded = np.asarray([text.encode() for text in value])
    pieces = -(-encoded.nbytes // ATTRIBUTE_LIMIT)
    if pieces == 1:
        group.attrs[key] = encoded
        return
    per_piece = max(1, ATTRIBUTE_LIMIT // encoded.itemsize)
    for number, start in enumerate(range(0, len(encoded), per_piece)):
        group.attrs[f"{key}{number}"] = encoded[start : start + per_piece]


def _digest_between(descriptor: int, start: int, end: int, digest: Digest) -> int:
    """Digest what HDF5 itself wrote between two tensors."""
    while start < end:
        piece = os.pread(descriptor, min(PIECE, end - start), start)
        if not piece:
            raise OSError(f"the file ends at byte {start}, {end} expected")
        digest(piece)
        start += len(piece)
    return start


def _pieces(value: Array, dtype: str | None) -> Iterator[memoryview]:
    """The bytes of `value` as stored, a few MB at a time."""
    flat = np.ascontiguousarray(value).reshape(-1)
    stored = np.dtype(dtype) if dtype else flat.dtype
    per_piece = max(1, PIECE // max(flat.itemsize, stored.itemsize))
    for start in range(0, flat.size, per_piece):
        piece = flat[start : start + per_piece]
        if stored.kind != "V" and stored != piece.dtype:
            piece = widened(piece, stored)
        yield piece.view(np.uint8).data


def _write_all(descriptor: int, piece: memoryview, offset: int) -> None:
    while piece:
        written = os.pwrite(descriptor, piece, offset)
        piece, offset = piece[written:], offset + written


@contextmanager
def opened(path: Path, base: int = 0) -> Iterator[tuple[h5py.File, int]]:
    """An HDF5 file, from byte `base` of `path` on, for reading; and its descriptor."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if base:
            with h5py.File(Window(descriptor, base), "r") as file:
                yield file, descriptor
        else:
            with h5py.File(path, "r", locking=False) as file:
                yield file, descriptor
    finally:
        os.close(descriptor)


def read(path: Path, wanted: Iterable[tuple[str, str]], base: int = 0) -> list[Array]:
    """Tensors by (path of the dataset, dtype of the variable), from a file written here.

    Raises CheckpointError if the file or a dataset cannot be read.
    """
    try:
        with opened(path, base) as (file, _):
            return [
                narrowed(np.asarray(own_dataset(file, name)), by_name(dtype))
                for name, dtype in wanted
            ]
    except NotOwnError as error:
        raise CheckpointError(f"cannot be read: a tensor {error.what}", str(path)) from error
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        raise CheckpointError(f"cannot be read: {error}", str(path)) from error


def tensor_digest(value: Array) -> str:
    """xxh3_128, in hex, of a tensor's bytes in C order."""
    digest = xxhash.xxh3_128()
    for piece in _pieces(value, None):
        digest.update(piece)
    return digest.hexdigest()
