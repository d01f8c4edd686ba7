"""Depth `structure`: every tensor is where the manifest says, with the same content.

Tensors are compared with digests that were taken from memory, so this also
finds a writer's mistakes, which `bytes` cannot. HDF5 is only asked where things
are: plain datasets were digested on the pass that read the file, or are read around
its process-wide lock, so that a check beside a training does not hold up a save.

Whether Keras can make a model of it is the business of the depth `load`.
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
_SLACK = 2**20  # of a compressed dataset's chunk over the tensor it holds

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class _File:
    """An open HDF5 file.

    plain: the same file's bytes.
    base: where HDF5 begins in it.
    digests: of ranges of it, as far as known.
    """

    hdf5: Any
    plain: FileReader
    base: int
    digests: Mapping[tuple[int, int], str]


@dataclass(frozen=True, slots=True)
class _Found:
    """What has come of it so far, as `Inspection` has it."""

    findings: list[Finding] = field(default_factory=list)
    unknown: list[UnverifiableError] = field(default_factory=list)

    @contextmanager
    def at(self, where: str, subject: str = "") -> Iterator[None]:
        """Note what h5py and the system raise in here: the one seam to both."""
        try:
            yield
        except DefectError as defect:
            self.findings.append(Finding(defect.kind, where, f"{subject}{defect.what}"))
        # What h5py raises over damaged files depends on which of its range_digests trips.
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
            failed = unverifiable(error, where)
            if failed is not None:
                self.unknown.append(failed)
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
    """Everything in which the tensors in `directory` differ from what `manifest` promises.

    Each tensor is looked at in each of its places: a plain dataset of that
    shape, of the variable's dtype or a wider one, with the variable's content.
    Nothing else may be there. Configurations must be JSON, the architecture the
    one that was saved. Damaged files give findings.

    Arguments:
        directory: of one checkpoint.
        manifest: its own.
        closed: names of files that are known to be damaged and are not opened.
            One flipped bit can make the HDF5 library loop forever with its
            lock held, which would take every other thread's HDF5 with it.
        range_digests: of files, digested just now: what lies there is not read again.

    Raises UnverifiableError if nothing is wrong as far as could be looked at, and the
    system failed at the rest.
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
    """The same, with what could not be looked at."""
    found = _Found()
    findings = found.findings
    promised = _known(manifest)
    with ExitStack() as stack:
        files: dict[str, _File | None] = {}
        for entry in manifest.files:
            if entry.name in closed or entry.name in files:
                files.setdefault(entry.name, None)
                continue
            files[entry.name] = None
            with found.at(entry.name):
                known = range_digests.get(entry.name) if range_digests else None
                files[entry.name] = file = _check_file(
                    directory, entry, manifest, stack, found, known.digests if known else {}
                )
                if file is not None:
                    findings += _extra_datasets(
                        file.hdf5, entry.name, manifest, promised[entry.name]
                    )
        findings += _said_twice(manifest)
        if manifest.model_file not in files:
            what = "is said to be the model's, and the manifest does not know it"
            findings.append(Finding("missing", manifest.model_file, what))
        for tensor in manifest.tensors:
            _check_tensor(tensor, files, found)
    return Inspection(tuple(findings), tuple(found.unknown))


def range_digests_of(manifest: Manifest) -> dict[str, RangeDigests]:
    """What of each file is a tensor as it was in memory, as the manifest has it."""
    ranges: dict[str, list[tuple[int, int]]] = {}
    for tensor in manifest.tensors:
        for place, offset in zip(tensor.places, tensor.offsets, strict=False):
            if offset is not None:
                with suppress(TypeError):  # an unknown dtype is found soon enough
                    ranges.setdefault(split_place(place)[0], []).append((offset, _size(tensor)))
    return {name: RangeDigests(each) for name, each in ranges.items()}


def _size(tensor: TensorEntry) -> int:
    return math.prod(tensor.shape) * parse_dtype(tensor.dtype).itemsize


def _said_twice(manifest: Manifest) -> Iterator[Finding]:
    """Tensors, or places of tensors, that the manifest has more than once."""
    tensors = Counter((tensor.role, tensor.index) for tensor in manifest.tensors)
    places = Counter(place for tensor in manifest.tensors for place in tensor.places)
    for (role, index), count in tensors.items():
        if count > 1:
            yield Finding("twice", MANIFEST, f"{role} {index} stands there {count} times")
    for place, count in places.items():
        if count > 1:
            yield Finding("twice", place, f"is the place of {count} tensors")


def _known(manifest: Manifest) -> dict[str, set[str]]:
    """The datasets that each file may have."""
    ours = {STATE_FILE: STATE_DATASET}  # else it has its manifest inside
    known = {each.name: {ours.get(each.name, MANIFEST_DATASET)} for each in manifest.files}
    for tensor in manifest.tensors:
        for name, path in map(split_place, tensor.places):
            known.setdefault(name, set()).add(path.strip("/"))
    return known


def _extra_datasets(hdf5: Any, name: str, manifest: Manifest, known: set[str]) -> list[Finding]:
    folders = {str(each) for path in known for each in PurePosixPath(path).parents}
    # Older manifests do not name the assets.
    unnamed = f"{ASSETS}/" if name == STATE_FILE and not manifest.architecture else "/"
    found: list[Finding] = []

    def visit(path: bytes, link: Any) -> bool | None:
        text = as_text(path.decode("utf-8", "surrogateescape"))
        if text in known or text in folders or text.startswith(unnamed):
            return None
        hard = link.type == h5py.h5l.TYPE_HARD  # others are not followed
        if hard and h5py.h5o.get_info(hdf5.id, path).type == h5py.h5o.TYPE_GROUP:
            return None  # Keras makes empty ones
        found.append(Finding("extra", f"{name}:/{text}", "the manifest does not know it"))
        return True if len(found) == MOST_EXTRA else None

    hdf5.id.links.visit(visit, info=True)
    return found


def _check_file(
    directory: Path,
    entry: FileEntry,
    manifest: Manifest,
    stack: ExitStack,
    found: _Found,
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
        with found.at(f"{entry.name}:{model_format.config_member}"):
            _parse(model_format.read_texts(path, path).model, architecture)
        architecture = ""
    source = extract.Window(_opened(path, stack), base) if base else path
    opened = access.open_for_reading(source)
    stack.callback(_close, opened)
    file = _File(opened, stack.enter_context(FileReader(_opened(path, stack))), base, digests)
    if entry.name == STATE_FILE:
        with found.at(f"{entry.name}:{STATE_DATASET}", "the training state "):
            _parse(bytes(own_dataset(file.hdf5, STATE_DATASET)[()]))
    for name in CONFIGURATIONS:
        with found.at(f"{entry.name}:{name}"):
            wanted = architecture if name == "model_config" else ""
            if name in file.hdf5.attrs:
                _check_configuration(file.hdf5, name, entry.size, wanted)
            elif wanted:
                raise DefectError("missing", "is missing")
    return file


def _opened(path: Path, stack: ExitStack) -> int:
    descriptor = syscalls.retry_once(lambda: syscalls.open(path, os.O_RDONLY | os.O_NOFOLLOW))
    stack.callback(syscalls.close, descriptor)
    return descriptor


def _check_configuration(hdf5: Any, name: str, limit: int, architecture: str) -> None:
    attribute = h5py.h5a.open(hdf5.id, name.encode())
    if attribute.shape != () or attribute.get_storage_size() > limit:
        raise DefectError("config", "is not one text")
    _parse(hdf5.attrs[name], architecture)


def _parse(text: Any, architecture: str = "") -> None:
    """Raise unless it is JSON and, if a digest is given, the architecture that it is of."""
    try:
        value = json.loads(text)
        found = digest(value) if architecture else ""
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise DefectError("config", f"is not JSON: {error}") from error
    if found != architecture:
        raise DefectError("config", "is not the architecture that was saved")


def _check_tensor(tensor: TensorEntry, files: dict[str, _File | None], found: _Found) -> None:
    if not tensor.places:
        what = f"{_title(tensor)} is stored nowhere"
        found.findings.append(Finding("missing", tensor.name, what))
    for place in tensor.places:
        name, path = split_place(place)
        if name not in files:
            what = f"{_title(tensor)} is said to be in a file the manifest does not know"
            found.findings.append(Finding("missing", place, what))
            continue
        file = files[name]
        if file is None:
            continue  # the file itself is a finding, or unknown
        with found.at(place, f"{_title(tensor)} "):
            _check_place(tensor, file, path)


def _check_place(tensor: TensorEntry, file: _File, path: str) -> None:
    dataset = own_dataset(file.hdf5, path)
    stored = _stored_dtype(dataset, tensor)
    if stored == _dtype(tensor.dtype):
        held, offset = dataset.id.get_storage_size(), dataset.id.get_offset()
        found = None if offset is None else file.digests.get((file.base + offset, held))
        if found is not None and held == _size(tensor):
            _require_equal(tensor, found)
            return
    _compare(tensor, _pieces(file, dataset, stored))


def _stored_dtype(dataset: Any, tensor: TensorEntry) -> np.dtype[Any]:
    """How the tensor is stored, checked against how the manifest says it is."""
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
    raise DefectError("dtype", f"is stored as {stored}, which does not hold {tensor.dtype}")


def _dtype(name: str) -> np.dtype[Any]:
    try:
        return parse_dtype(name)
    except TypeError as error:
        raise DefectError("dtype", f"is of an unknown dtype, {name}") from error


def _is_wider(stored: np.dtype[Any], own: np.dtype[Any]) -> bool:
    if stored.kind != "f" or stored.itemsize <= own.itemsize or not stored.isnative:
        return False
    return own.kind == "f" or hasattr(ml_dtypes, own.name)


def _pieces(file: _File, dataset: Any, stored: np.dtype[Any]) -> Iterator[Array]:
    """The dataset's content in C order, flat, a few MB at a time."""
    size = math.prod(dataset.shape) * stored.itemsize
    if not size:
        return iter(())
    if dataset.chunks is not None:
        return _chunked(dataset, stored, size)
    held, offset = dataset.id.get_storage_size(), dataset.id.get_offset()
    if held != size:
        raise DefectError("size", f"has {held} bytes in the file, {size} were written")
    if offset is None:  # compact: inside the header, 64 KiB at most
        return iter([dataset[()].reshape(-1).view(stored)])
    return _contiguous(file.plain, stored, file.base + offset, size)


def _contiguous(
    plain: FileReader, stored: np.dtype[Any], offset: int, size: int
) -> Iterator[Array]:
    left = size
    for piece in plain.pieces(offset, size, stored.itemsize):
        left -= len(piece)
        yield np.frombuffer(piece, stored)
    if left:
        raise DefectError("size", f"ends {left} bytes too early")


def _chunked(dataset: Any, stored: np.dtype[Any], size: int) -> Iterator[Array]:
    if math.prod(dataset.chunks) * stored.itemsize > size + _SLACK:
        raise DefectError("size", f"has chunks of {dataset.chunks}, larger than itself")
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
        raise DefectError("tensor", "is not what it was in memory")


def _title(tensor: TensorEntry) -> str:
    return f"{tensor.role} {tensor.name or tensor.index}"


def _close(opened: Any) -> None:
    with _Found().at(""):
        opened.close()
