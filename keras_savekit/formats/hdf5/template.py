"""Build an HDF5 file in memory that has everything but its tensors.

h5py needs a tenth of a millisecond for each tensor, and holds HDF5's process-wide lock
meanwhile. So a template is used again for each file that differs only in its tensors, or in
texts of the same length.
"""

from __future__ import annotations

import io
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import h5py
import numpy as np

from keras_savekit.base.tensors import Array
from keras_savekit.formats.directio.memory import PAGE
from keras_savekit.formats.dtypes import widen
from keras_savekit.formats.hdf5 import access

ALIGNED_FROM = 64 * 1024
ATTRIBUTE_LIMIT = 64512  # bytes; Keras splits longer lists
Compression = Literal["gzip", "lzf"] | None
Attribute = str | bytes | Sequence[str]


@dataclass(frozen=True, slots=True)
class Dataset:
    """A place for one tensor in a file.

    position: the position of its value among the values that are written.
    dtype: the dtype in the file, if that is not the dtype of the value.
    """

    path: str
    position: int
    dtype: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything in a file except the bytes of the tensors.

    groups: path of each group ("" is the file itself) to its attributes: texts, or lists of
        texts, which are split if they are too long for an attribute.
    compression: for tensors of 64 KiB and more, which HDF5 itself then writes.
    """

    groups: Mapping[str, Mapping[str, Attribute]]
    datasets: tuple[Dataset, ...]
    compression: Compression = None


@dataclass(frozen=True, slots=True)
class Extent:
    """The offset of a value in the file, its position and the dtype in which it is stored."""

    offset: int
    position: int
    dtype: str | None


class Template:
    """A file in memory with a layout, for values of these shapes and dtypes.

    descriptor: of the file in memory.
    extents: the places of the values, in order of their offsets. Values that HDF5 compressed
        have none: they are in the template itself, which then fits one file only.
    """

    def __init__(self, layout: Layout, values: Sequence[Array]) -> None:
        self._layout, self._signature = layout, _signature(layout, values)
        self.descriptor = os.memfd_create("savekit-template", os.MFD_CLOEXEC)
        weakref.finalize(self, os.close, self.descriptor)
        with self._open("w") as file:
            extents = _lay_out(file, layout, values)
        self.extents = sorted(extents, key=lambda extent: extent.offset)

    @property
    def size(self) -> int:
        """The size of the whole file in bytes."""
        return os.fstat(self.descriptor).st_size

    def adapt(self, layout: Layout, values: Sequence[Array]) -> bool:
        """Return whether the values of this layout have the same places; if so, take its texts."""
        ours = self._layout
        if layout.compression or ours.compression or layout.datasets != ours.datasets:
            return False
        if (
            _signature(layout, values) != self._signature
            or layout.groups.keys() != ours.groups.keys()
        ):
            return False
        changed = []
        for name, attributes in layout.groups.items():
            previous = ours.groups[name]
            if attributes.keys() != previous.keys():
                return False
            for key, value in attributes.items():
                if value != previous[key]:
                    if not _is_replaceable(value, previous[key]):
                        return False
                    changed.append((name or "/", key, value))
        if changed:
            with self._open("r+") as file:
                for name, key, value in changed:
                    file[name].attrs.modify(key, value)
        self._layout = layout
        return True

    @contextmanager
    def _open(self, mode: str) -> Iterator[h5py.File]:
        memory = _Memory(self.descriptor, "r+", closefd=False)
        with access.open_in_memory(memory, mode, align_from=ALIGNED_FROM, align_to=PAGE) as file:
            yield file
        if memory.error is not None:
            raise memory.error


class _Memory(io.FileIO):
    """A file that keeps its first error for later, since HDF5 cannot close a file that failed.

    A limit on the size of files applies to files in memory too.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = self.error or error
            return len(data)

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0


def _signature(layout: Layout, values: Sequence[Array]) -> list[tuple[Any, ...]]:
    chosen = [values[dataset.position] for dataset in layout.datasets]
    return [(value.shape, value.dtype) for value in chosen]


def _is_replaceable(value: Attribute, previous: Attribute) -> bool:
    """Whether HDF5 stores both texts in the same place."""
    both_bytes = isinstance(value, bytes) and isinstance(previous, bytes)
    return both_bytes and len(value) == len(previous)


def _lay_out(file: h5py.File, layout: Layout, values: Sequence[Array]) -> list[Extent]:
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
            extents.append(Extent(offset, dataset.position, dataset.dtype))
    return extents


def stored_dtype(dataset: Dataset, values: Sequence[Array]) -> np.dtype[Any]:
    """Return the dtype that a value has in the file."""
    own = values[dataset.position].dtype
    return np.dtype(dataset.dtype) if dataset.dtype else own


def _compress(
    file: h5py.File, path: str, value: Array, dtype: np.dtype[Any], compression: Compression
) -> h5py.h5d.DatasetID:
    """Write a tensor in compressed chunks, with shuffled bytes, as HDF5's manual recommends."""
    stored = value.view(dtype) if dtype.kind == "V" else widen(value, dtype)
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
    """Write a text, or a list of texts, which is split as Keras splits long lists."""
    if isinstance(value, (str, bytes)):
        group.attrs[key] = value
        return
    if not value:
        group.attrs[key] = np.zeros((0,))  # what Keras writes for an empty list
        return
    encoded = np.asarray([text.encode() for text in value])
    pieces = -(-encoded.nbytes // ATTRIBUTE_LIMIT)
    if pieces == 1:
        group.attrs[key] = encoded
        return
    per_piece = max(1, ATTRIBUTE_LIMIT // encoded.itemsize)
    for number, start in enumerate(range(0, len(encoded), per_piece)):
        group.attrs[f"{key}{number}"] = encoded[start : start + per_piece]


def read_list(group: h5py.Group, key: str) -> list[str]:
    """Read the list of texts that `write_attribute` wrote; KeyError if there is none."""
    if key in group.attrs:
        pieces = [group.attrs[key]]
    else:
        pieces = [group.attrs[f"{key}0"]]
        while f"{key}{len(pieces)}" in group.attrs:
            pieces.append(group.attrs[f"{key}{len(pieces)}"])
    return [text.decode() for piece in pieces for text in piece]
