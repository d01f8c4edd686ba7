"""Refuse files of unknown origin that could do harm when Keras reads them.

Refused are paths that lead out of the file, sizes that the file cannot fill, and structures
that a reader would not finish. Whether the content is valid is the reader's question.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import h5py

from keras_savekit.base.defects import DefectError
from keras_savekit.errors import CheckpointError
from keras_savekit.formats.archive import ARCHIVE_ERRORS, content_offset
from keras_savekit.formats.hdf5 import access, datasets, extract
from keras_savekit.store.read_errors import unreadable

EXPANDED = 100  # times a file's size: weights hardly compress, `.keras` members are not compressed
FLOOR = 2**28  # bytes that are always allowed


def require_harmless_h5(path: Path, file: Any = None) -> None:
    """Raise CheckpointError unless the data of each dataset are in the HDF5 file itself.

    file: the object to read from, if the HDF5 file is part of the file at `path`.
    """
    room = max(FLOOR, EXPANDED * path.stat().st_size)
    try:
        with access.open_for_reading(file or path) as opened:
            seen: set[int] = set()
            pending: list[tuple[str, Any]] = [("", opened)]
            while pending:
                name, item = pending.pop()
                address = h5py.h5o.get_info(item.id).addr
                if address in seen:
                    continue
                seen.add(address)
                if isinstance(item, h5py.Dataset):
                    room -= _harmless_size(item, f"{path}:{name}", room)
                elif isinstance(item, h5py.Group):
                    _require_hard_links(item, f"{path}:{name}")
                    pending += [(f"{name}/{key}", item[key]) for key in item]
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise unreadable("cannot be read", str(path), error) from error


def _harmless_size(dataset: Any, where: str, room: int) -> int:
    try:
        datasets.require_own_data(dataset)
    except DefectError as error:
        raise CheckpointError(error.what, where, _REMEDY) from error
    size = int(dataset.size or 0) * int(dataset.dtype.itemsize)
    if size > room:
        raise CheckpointError(
            f"claims {size} bytes, more than such a file can contain", where, _REMEDY
        )
    return size


def _require_hard_links(group: Any, where: str) -> None:
    for key in group:
        if group.get(key, getclass=True, getlink=True) is not h5py.HardLink:
            raise CheckpointError("is a link to another place", f"{where}/{key}", _REMEDY)


def require_harmless_zip(path: Path) -> None:
    """Raise CheckpointError if a member of a `.keras` archive leads out of it or is too large.

    `require_harmless_weights` checks the weights among the members.
    """
    room = max(FLOOR, EXPANDED * path.stat().st_size)
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                name = PurePosixPath(member.filename)
                where = f"{path}:{member.filename}"
                if name.is_absolute() or ".." in name.parts or "\\" in member.filename:
                    raise CheckpointError("leads out of the archive", where, _REMEDY)
                room -= member.file_size
                if room < 0:
                    what = f"claims {member.file_size} bytes in {member.compress_size}"
                    raise CheckpointError(what, where, _REMEDY)
    except (OSError, ValueError, *ARCHIVE_ERRORS) as error:
        raise unreadable("is not a zip archive", str(path), error) from error


def require_harmless_weights(path: Path) -> None:
    """Check each HDF5 file in a harmless archive as `require_harmless_h5` does."""
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.filename.endswith(".h5"):
                    _require_harmless_member(path, archive, member)
    except (OSError, ValueError, *ARCHIVE_ERRORS) as error:
        raise unreadable("is not a zip archive", str(path), error) from error


def _require_harmless_member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    if member.compress_type == zipfile.ZIP_STORED:
        with path.open("rb") as file:
            window = extract.Window(file.fileno(), content_offset(file, member))
            require_harmless_h5(path, window)
        return
    # HDF5 seeks, which the stream of a compressed member cannot do fast.
    with tempfile.TemporaryFile() as copy:
        with archive.open(member) as stream:
            shutil.copyfileobj(stream, copy)
        require_harmless_h5(path, copy)


_REMEDY = "nothing was loaded; neither Keras nor this package writes such a file"
