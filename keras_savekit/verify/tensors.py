"""Depth `structure`: each tensor is at its place in the manifest and has the same content.

Tensors are compared with digests of what was in memory, so this also finds errors of the
writer, which `bytes` cannot. HDF5 only locates datasets. Their bytes were digested while
`bytes` read the file, or are read without HDF5's process-wide lock, so that a check does not
delay a save.

The depth `load` checks whether Keras can build the model.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import xxhash

from keras_savekit.base.defects import DefectError
from keras_savekit.base.tensors import Array
from keras_savekit.errors import CheckpointError, UnverifiableError
from keras_savekit.formats.config_digest import digest
from keras_savekit.formats.directio.reader import FileReader, RangeDigests
from keras_savekit.formats.directio.writer import PIECE
from keras_savekit.formats.dtypes import narrow, parse_dtype
from keras_savekit.formats.hdf5 import access, extract
from keras_savekit.formats.hdf5.datasets import own_dataset
from keras_savekit.formats.registry import find_format, is_architecture_file
from keras_savekit.formats.single_file import MANIFEST_DATASET
from keras_savekit.formats.state_h5 import ASSETS, STATE_DATASET, STATE_FILE
from keras_savekit.store import syscalls
from keras_savekit.store.manifest import (
    MANIFEST,
    FileEntry,
    Finding,
    Manifest,
    TensorEntry,
    split_place,
)
from keras_savekit.store.read_errors import unverifiable
from keras_savekit.store.regular_file import as_text
from keras_savekit.verify.bytes import MOST_EXTRA, Inspection, path_or_finding

CONFIGURATIONS = ("model_config", "training_config")
_SLACK = 2**20  # bytes by which the chunk of a compressed dataset may exceed its tensor


@dataclass(frozen=True, slots=True)
class _File:
    """An open HDF5 file.

    reader: reads the bytes of the same file.
    base: the byte at which HDF5 begins.
    digests: range of the file to its digest, if known.
    """

    hdf5: Any
    reader: FileReader
    base: int
    digests: Mapping[tuple[int, int], str]


@dataclass(frozen=True, slots=True)
class _Collector:
    """Collects findings and errors for an `Inspection`."""

    findings: list[Finding] = field(default_factory=list)
    errors: list[UnverifiableError] = field(default_factory=list)

    @contextmanager
    def collecting(self, where: str, subject: str = "") -> Iterator[None]:
        """Turn errors that are raised inside into findings, or into errors of the system.

        subject: what a finding is about, at the start of its text.
        """
        try:
            yield
        except DefectError as defect:
            self.findings.append(Finding(defect.kind, where, f"{subject}{defect.what}"))
        # What h5py raises for damaged files depends on which of its range_digests trips.
        except (
            CheckpointError,
            OSError,
            LookupError,
            RuntimeError,
            ValueError,
            TypeError,
            ArithmeticError,
            MemoryError,
        ) as error:
            failure = unverifiable(error, where)
            if failure is not None:
                self.errors.append(failure)
            elif isinstance(error, CheckpointError):
                self.findings.append(Finding("unreadable", where, error.what))
            else:
                what = f"{subject}cannot be read: {error}"
                self.findings.append(Finding("unreadable", where, what))


def check_structure(
    directory: Path,
    manifest: Manifest,
    *,
    closed: Collection[str] = (),
    range_digests: Mapping[str, RangeDigests] | None = None,
) -> tuple[Finding, ...]:
    """Return each difference between the tensors in `directory` and `manifest`.

    Each place of a tensor must be a dataset with the shape and the content of the variable,
    in its dtype or a wider one. There must be no other datasets. Configurations must be
    JSON, and the architecture must be the one that was saved.

    Arguments:
        directory: of one checkpoint.
        manifest: of the same checkpoint.
        closed: names of files that are known to be damaged and are not opened. One flipped
            bit can make the HDF5 library loop forever while it holds its lock, which would
            stop HDF5 in each other thread.
        range_digests: file name to digests that were just computed. These ranges are not
            read again.

    Raises UnverifiableError if there are no findings and the system failed.
    """
    return inspect_structure(
        directory, manifest, closed=closed, range_digests=range_digests
    ).conclusive_findings()


def inspect_structure(
    directory: Path,
    manifest: Manifest,
    *,
    closed: Collection[str] = (),
    range_digests: Mapping[str, RangeDigests] | None = None,
) -> Inspection:
    """Return the same findings as `check_structure`, and the errors of the system."""
    found = _Collector()
    findings = found.findings
    promised = _expected_datasets(manifest)
    with ExitStack() as stack:
        files: dict[str, _File | None] = {}
        for entry in manifest.files:
            if entry.name in closed or entry.name in files:
                files.setdefault(entry.name, None)
                continue
            files[entry.name] = None
            with found.collecting(entry.name):
                known = range_digests.get(entry.name) if range_digests else None
                files[entry.name] = file = _check_file(
                    directory, entry, manifest, stack, found, known.digests if known else {}
                )
                if file is not None:
                    findings += _extra_datasets(
                        file.hdf5, entry.name, manifest, promised[entry.name]
                    )
        findings += _repeated_entries(manifest)
        if manifest.model_file not in files:
            what = "is named as the model file, and is not in the manifest"
            findings.append(Finding("missing", manifest.model_file, what))
        for tensor in manifest.tensors:
            _check_tensor(tensor, files, found)
    return Inspection(tuple(findings), tuple(found.errors))


def range_digests_of(manifest: Manifest) -> dict[str, RangeDigests]:
    """Return, for each file, what digests its tensors that are stored unchanged."""
    ranges: dict[str, list[tuple[int, int]]] = {}
    for tensor in manifest.tensors:
        for place, offset in zip(tensor.places, tensor.offsets, strict=False):
            if offset is not None:
                with suppress(TypeError):  # an unknown dtype becomes a finding later
                    ranges.setdefault(split_place(place)[0], []).append((offset, _size(tensor)))
    return {name: RangeDigests(found) for name, found in ranges.items()}


def _size(tensor: TensorEntry) -> int:
    return math.prod(tensor.shape) * parse_dtype(tensor.dtype).itemsize


def _repeated_entries(manifest: Manifest) -> Iterator[Finding]:
    """Yield the tensors, and the places of tensors, that the manifest contains more than once."""
    tensors = Counter((tensor.role, tensor.index) for tensor in manifest.tensors)
    places = Counter(place for tensor in manifest.tensors for place in tensor.places)
    for (role, index), count in tensors.items():
        if count > 1:
            yield Finding("twice", MANIFEST, f"contains {role} {index} {count} times")
    for place, count in places.items():
        if count > 1:
            yield Finding("twice", place, f"is the place of {count} tensors")


def _expected_datasets(manifest: Manifest) -> dict[str, set[str]]:
    """Return the paths of the datasets that each file may contain."""
    ours = {STATE_FILE: STATE_DATASET}  # other files may contain a manifest
    known = {entry.name: {ours.get(entry.name, MANIFEST_DATASET)} for entry in manifest.files}
    for tensor in manifest.tensors:
        for name, path in map(split_place, tensor.places):
            known.setdefault(name, set()).add(path.strip("/"))
    return known


def _extra_datasets(hdf5: Any, name: str, manifest: Manifest, known: set[str]) -> list[Finding]:
    folders = {str(parent) for path in known for parent in PurePosixPath(path).parents}
    # Manifests of older versions do not list assets.
    unnamed = f"{ASSETS}/" if name == STATE_FILE and not manifest.architecture else "/"
    found: list[Finding] = []

    def visit(path: bytes, link: Any) -> bool | None:
        text = as_text(path.decode("utf-8", "surrogateescape"))
        if text in known or text in folders or text.startswith(unnamed):
            return None
        hard = link.type == h5py.h5l.TYPE_HARD  # other links are not followed
        if hard and h5py.h5o.get_info(hdf5.id, path).type == h5py.h5o.TYPE_GROUP:
            return None  # Keras writes empty groups
        found.append(Finding("extra", f"{name}:/{text}", "is not in the manifest"))
        return True if len(found) == MOST_EXTRA else None

    hdf5.id.links.visit(visit, info=True)
    return found


def _check_file(
    directory: Path,
    entry: FileEntry,
    manifest: Manifest,
    stack: ExitStack,
    found: _Collector,
    digests: Mapping[tuple[int, int], str],
) -> _File | None:
    path = path_or_finding(directory, entry.name)
    if isinstance(path, Finding):
        found.findings.append(path)
        return None
    if path.stat().st_size != entry.size:
        what = f"the file has {path.stat().st_size} bytes, {entry.size} were written"
        found.findings.append(Finding("size", entry.name, what))
        return None
    saved_as = find_format(manifest.model_file)
    beside = saved_as.architecture_file if saved_as else ""
    architecture = manifest.architecture if entry.name == (beside or manifest.model_file) else ""
    if is_architecture_file(entry.name):
        _parse(path.read_bytes(), architecture)
    model_format = find_format(path.name)
    if model_format is None:
        return None
    model_format.require_harmless_container(path)
    base = model_format.hdf5_begins(path)
    for kind, member, what in model_format.extra_members(path):
        found.findings.append(Finding(kind, f"{entry.name}:{member}", what))
    if model_format.config_member:
        with found.collecting(f"{entry.name}:{model_format.config_member}"):
            _parse(model_format.read_texts(path, path).model, architecture)
        architecture = ""
    source = extract.Window(_open_descriptor(path, stack), base) if base else path
    opened = access.open_for_reading(source)
    stack.callback(_close, opened)
    file = _File(
        opened, stack.enter_context(FileReader(_open_descriptor(path, stack))), base, digests
    )
    if entry.name == STATE_FILE:
        with found.collecting(f"{entry.name}:{STATE_DATASET}", "the training state "):
            _parse(bytes(own_dataset(file.hdf5, STATE_DATASET)[()]))
    for name in CONFIGURATIONS:
        with found.collecting(f"{entry.name}:{name}"):
            wanted = architecture if name == "model_config" else ""
            if name in file.hdf5.attrs:
                _check_configuration(file.hdf5, name, entry.size, wanted)
            elif wanted:
                raise DefectError("missing", "is missing")
    return file


def _open_descriptor(path: Path, stack: ExitStack) -> int:
    descriptor = syscalls.retry_once(lambda: syscalls.open(path, os.O_RDONLY | os.O_NOFOLLOW))
    stack.callback(syscalls.close, descriptor)
    return descriptor


def _check_configuration(hdf5: Any, name: str, limit: int, architecture: str) -> None:
    attribute = h5py.h5a.open(hdf5.id, name.encode())
    if attribute.shape != () or attribute.get_storage_size() > limit:
        raise DefectError("config", "is not one text")
    _parse(hdf5.attrs[name], architecture)


def _parse(text: Any, architecture: str = "") -> None:
    """Raise DefectError unless it is JSON and, if a digest is given, that architecture."""
    try:
        value = json.loads(text)
        found = digest(value) if architecture else ""
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise DefectError("config", f"is not JSON: {error}") from error
    if found != architecture:
        raise DefectError("config", "is not the architecture that was saved")


def _check_tensor(tensor: TensorEntry, files: dict[str, _File | None], found: _Collector) -> None:
    if not tensor.places:
        what = f"{_title(tensor)} is stored nowhere"
        found.findings.append(Finding("missing", tensor.name, what))
    for place in tensor.places:
        name, path = split_place(place)
        if name not in files:
            what = f"{_title(tensor)} is in a file that is not in the manifest"
            found.findings.append(Finding("missing", place, what))
            continue
        file = files[name]
        if file is None:
            continue  # there is a finding or an error for the file already
        with found.collecting(place, f"{_title(tensor)} "):
            _check_place(tensor, file, path)


def _check_place(tensor: TensorEntry, file: _File, path: str) -> None:
    dataset = own_dataset(file.hdf5, path)
    stored = _stored_dtype(dataset, tensor)
    if stored == _dtype(tensor.dtype):
        stored_size, offset = dataset.id.get_storage_size(), dataset.id.get_offset()
        known = None if offset is None else file.digests.get((file.base + offset, stored_size))
        if known is not None and stored_size == _size(tensor):
            _require_equal(tensor, known)
            return
    _compare(tensor, _pieces(file, dataset, stored))


def _stored_dtype(dataset: Any, tensor: TensorEntry) -> np.dtype[Any]:
    """Return the dtype in the file. Raise DefectError if it does not fit the manifest."""
    if dataset.shape != tensor.shape:
        what = f"has shape {dataset.shape}, {tensor.shape} was written"
        raise DefectError("shape", what)
    own = _dtype(tensor.dtype)
    stored: np.dtype[Any] = dataset.dtype
    if stored == own:
        return own
    if stored == np.dtype(f"V{own.itemsize}") and own.kind in "Vf":
        named = dataset.attrs.get("dtype")
        if named == tensor.dtype or named == tensor.dtype.encode():
            return own
    if _is_wider(stored, own):
        return stored
    raise DefectError("dtype", f"is stored as {stored}, which cannot contain {tensor.dtype}")


def _dtype(name: str) -> np.dtype[Any]:
    try:
        return parse_dtype(name)
    except TypeError as error:
        raise DefectError("dtype", f"has an unknown dtype, {name}") from error


def _is_wider(stored: np.dtype[Any], own: np.dtype[Any]) -> bool:
    if stored.kind != "f" or stored.itemsize <= own.itemsize or not stored.isnative:
        return False
    return own.kind == "f" or hasattr(ml_dtypes, own.name)


def _pieces(file: _File, dataset: Any, stored: np.dtype[Any]) -> Iterator[Array]:
    """Yield the content of a dataset in C order, flat, in pieces of a few MB."""
    size = math.prod(dataset.shape) * stored.itemsize
    if not size:
        return iter(())
    if dataset.chunks is not None:
        return _chunked(dataset, stored, size)
    stored_size, offset = dataset.id.get_storage_size(), dataset.id.get_offset()
    if stored_size != size:
        raise DefectError("size", f"has {stored_size} bytes in the file, {size} were written")
    if offset is None:  # compact: in the header, 64 KiB at most
        return iter([dataset[()].reshape(-1).view(stored)])
    return _contiguous(file.reader, stored, file.base + offset, size)


def _contiguous(
    reader: FileReader, stored: np.dtype[Any], offset: int, size: int
) -> Iterator[Array]:
    left = size
    for piece in reader.pieces(offset, size, stored.itemsize):
        left -= len(piece)
        yield np.frombuffer(piece, stored)
    if left:
        raise DefectError("size", f"ends {left} bytes too early")


def _chunked(dataset: Any, stored: np.dtype[Any], size: int) -> Iterator[Array]:
    if math.prod(dataset.chunks) * stored.itemsize > size + _SLACK:
        raise DefectError("size", f"has chunks of {dataset.chunks}, larger than the dataset")
    row = size // dataset.shape[0]
    rows = max(1, PIECE // row)
    for start in range(0, dataset.shape[0], rows):
        yield dataset[start : start + rows].reshape(-1).view(stored)


def _compare(tensor: TensorEntry, pieces: Iterator[Array]) -> None:
    own = _dtype(tensor.dtype)
    found = xxhash.xxh3_128()
    for piece in pieces:
        try:
            value = np.ascontiguousarray(narrow(piece, own))
        except ValueError as error:
            raise DefectError("tensor", str(error)) from error
        found.update(value.view(np.uint8).data)
    _require_equal(tensor, found.hexdigest())


def _require_equal(tensor: TensorEntry, digest: str) -> None:
    if digest != tensor.digest:
        raise DefectError("tensor", "is not what was in memory")


def _title(tensor: TensorEntry) -> str:
    return f"{tensor.role} {tensor.name or tensor.index}"


def _close(opened: Any) -> None:
    with _Collector().collecting(""):
        opened.close()
