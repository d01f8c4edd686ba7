"""Writing an HDF5 file whose tensors go to the disk from where they lie.

h5py lays the file out: groups, attributes and contiguous datasets with their
space reserved. The tensors are then written with `os.pwrite` at the offsets
HDF5 chose, outside its process-wide lock, and digested on the way, so that the
digests describe what was in memory and not what came back from a file.

Which groups and datasets a file has is the business of the formats.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xxhash

from keras_savekit.errors import CheckpointError
from keras_savekit.formats.dtypes import by_name, narrowed, widened
from keras_savekit.formats.snapshot import Array
from keras_savekit.store.manifest import FileEntry

ALIGNMENT = 4096
ALIGNED_FROM = 64 * 1024
PIECE = 4 * 2**20
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

    groups: path of each group ("" is the file itself) to its attributes: texts,
        or lists of texts, which are split where they outgrow an attribute.
    """

    groups: Mapping[str, Mapping[str, str | bytes | Sequence[str]]]
    datasets: tuple[Dataset, ...]


@dataclass(frozen=True, slots=True)
class _Extent:
    offset: int
    position: int
    dtype: str | None


def write(path: Path, layout: Layout, values: Sequence[Array]) -> FileEntry:
    """Write `values` into a new file laid out as `layout`; return its size and digest.

    The file is not synced: publishing does that. Raises OSError as the system
    does; a file is then left half written, in a directory nobody lists.
    """
    extents = sorted(_lay_out(path, layout, values), key=lambda extent: extent.offset)
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return _fill(descriptor, path.name, extents, values)
    finally:
        os.close(descriptor)


def _lay_out(path: Path, layout: Layout, values: Sequence[Array]) -> list[_Extent]:
    extents = []
    with h5py.File(
        path, "x", alignment_threshold=ALIGNED_FROM, alignment_interval=ALIGNMENT
    ) as file:
        for name, attributes in layout.groups.items():
            group = file.require_group(name) if name else file
            for key, value in attributes.items():
                write_attribute(group, key, value)
        for dataset in layout.datasets:
            shape, dtype = values[dataset.position].shape, stored_dtype(dataset, values)
            identifier = _reserve(file, dataset.path, shape, dtype)
            if dataset.attributes:
                handle = h5py.Dataset(identifier)
                for key, value in dataset.attributes.items():
                    handle.attrs[key] = value
            offset = identifier.get_offset()
            if offset is not None:
                extents.append(_Extent(offset, dataset.position, dataset.dtype))
    return extents


def stored_dtype(dataset: Dataset, values: Sequence[Array]) -> np.dtype[Any]:
    """The dtype a value has in the file."""
    own = values[dataset.position].dtype
    return np.dtype(dataset.dtype) if dataset.dtype else own


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


def _fill(
    descriptor: int, name: str, extents: Iterable[_Extent], values: Sequence[Array]
) -> FileEntry:
    """Write the tensors in the order of their offsets and digest the whole file."""
    digest = xxhash.xxh3_128()
    position = 0
    for extent in extents:
        position = _digest_between(descriptor, position, extent.offset, digest)
        for piece in _pieces(values[extent.position], extent.dtype):
            digest.update(piece)
            _write_all(descriptor, piece, position)
            position += len(piece)
    size = _digest_between(descriptor, position, os.fstat(descriptor).st_size, digest)
    return FileEntry(name, size, digest.hexdigest())


def _digest_between(descriptor: int, start: int, end: int, digest: Any) -> int:
    """Digest what HDF5 itself wrote between two tensors."""
    while start < end:
        piece = os.pread(descriptor, min(PIECE, end - start), start)
        if not piece:
            raise OSError(f"the file ends at byte {start}, {end} expected")
        digest.update(piece)
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


def read(path: Path, wanted: Iterable[tuple[str, str]]) -> list[Array]:
    """Tensors by (path of the dataset, dtype of the variable), from a file written here.

    Raises CheckpointError if the file or a dataset cannot be read.
    """
    try:
        with h5py.File(path, "r") as file:
            return [narrowed(np.asarray(file[name]), by_name(dtype)) for name, dtype in wanted]
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"cannot be read: {error}", str(path)) from error


def tensor_digest(value: Array) -> str:
    """xxh3_128, in hex, of a tensor's bytes in C order."""
    digest = xxhash.xxh3_128()
    for piece in _pieces(value, None):
        digest.update(piece)
    return digest.hexdigest()
