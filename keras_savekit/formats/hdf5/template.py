"""An HDF5 file in memory, with nothing where its tensors belong.

Laying a file out takes h5py a tenth of a millisecond a tensor, under a lock that
all of HDF5 waits for. So a form serves every file that differs from it in
tensors alone, or in texts of the same length.
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
from keras_savekit.formats.dtypes import widened
from keras_savekit.formats.hdf5 import access

ALIGNED_FROM = 64 * 1024
ATTRIBUTE_LIMIT = 64512  # what Keras's own reader and writer split lists at
Compression = Literal["gzip", "lzf"] | None
Attribute = str | bytes | Sequence[str]


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

    groups: Mapping[str, Mapping[str, Attribute]]
    datasets: tuple[Dataset, ...]
    compression: Compression = None


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a value belongs in the file; which one, and how it is stored."""

    offset: int
    position: int
    dtype: str | None


class Template:
    """What h5py makes of a layout, for values of these shapes and dtypes.

    descriptor: of the memory it lies in.
    extents: where the values belong, by offset. Values that HDF5 compressed have
        none: they are in the form itself, which then serves one file.
    """

    def __init__(self, layout: Layout, values: Sequence[Array]) -> None:
        self._layout, self._kinds = layout, _kinds(layout, values)
        self.descriptor = os.memfd_create("savekit-form", os.MFD_CLOEXEC)
        weakref.finalize(self, os.close, self.descriptor)
        with self._opened("w") as file:
            extents = _lay_out(file, layout, values)
        self.extents = sorted(extents, key=lambda extent: extent.offset)

    @property
    def size(self) -> int:
        """Of the whole file, in bytes."""
        return os.fstat(self.descriptor).st_size

    def serves(self, layout: Layout, values: Sequence[Array]) -> bool:
        """Whether a file of this layout has all its values where this form has them.

        Texts of groups are then those of `layout`.
        """
        ours = self._layout
        if layout.compression or ours.compression or layout.datasets != ours.datasets:
            return False
        if _kinds(layout, values) != self._kinds or layout.groups.keys() != ours.groups.keys():
            return False
        changed = []
        for name, attributes in layout.groups.items():
            before = ours.groups[name]
            if attributes.keys() != before.keys():
                return False
            for key, value in attributes.items():
                if value != before[key]:
                    if not _same_place(value, before[key]):
                        return False
                    changed.append((name or "/", key, value))
        if changed:
            with self._opened("r+") as file:
                for name, key, value in changed:
                    file[name].attrs.modify(key, value)
        self._layout = layout
        return True

    @contextmanager
    def _opened(self, mode: str) -> Iterator[h5py.File]:
        memory = _Memory(self.descriptor, "r+", closefd=False)
        with access.in_memory(memory, mode, align_from=ALIGNED_FROM, align_to=PAGE) as file:
            yield file
        if memory.error is not None:
            raise memory.error


class _Memory(io.FileIO):
    """A file that tells of no failure until HDF5, which could not close it then, has closed it.

    Memory counts as a file where the size of files is limited.
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


def _kinds(layout: Layout, values: Sequence[Array]) -> list[tuple[Any, ...]]:
    return [(values[each.position].shape, values[each.position].dtype) for each in layout.datasets]


def _same_place(value: Attribute, before: Attribute) -> bool:
    """Whether HDF5 keeps one text where it kept the other."""
    both_bytes = isinstance(value, bytes) and isinstance(before, bytes)
    return both_bytes and len(value) == len(before)


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
