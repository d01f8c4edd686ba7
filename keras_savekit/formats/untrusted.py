"""Files from anywhere: what must be known of one before Keras is let near it.

Refuses what would make a reader follow a path out of the file, ask for memory
that the file cannot fill, or never come back. Whether the content makes sense
is for whoever reads it.
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
from keras_savekit.formats.archive import NO_ARCHIVE, start_of
from keras_savekit.formats.hdf5 import access, datasets, extract
from keras_savekit.store.read_errors import unreadable

EXPANDED = 100  # a whole file: weights hardly compress, and `.keras` members are stored as they are
FLOOR = 2**28  # below which nothing is too much


def require_harmless_h5(path: Path, file: Any = None) -> None:
    """Raise CheckpointError unless every tensor of an HDF5 file lies in the file itself.

    file: what to read it from, if it lies inside another.
    """
    room = max(FLOOR, EXPANDED * path.stat().st_size)
    try:
        with access.reading(file or path) as opened:
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
        raise CheckpointError(f"claims {size} bytes, more than the file can mean", where, _REMEDY)
    return size


def _require_hard_links(group: Any, where: str) -> None:
    for key in group:
        if group.get(key, getclass=True, getlink=True) is not h5py.HardLink:
            raise CheckpointError("is a link to somewhere else", f"{where}/{key}", _REMEDY)


def require_harmless_zip(path: Path) -> None:
    """Raise CheckpointError unless every member of a `.keras` archive stays inside it.

    Together they must not claim more than such a file can mean. What the weights
    among them are is the business of `require_harmless_weights`.
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
    except (OSError, ValueError, *NO_ARCHIVE) as error:
        raise unreadable("is no zip archive", str(path), error) from error


def require_harmless_weights(path: Path) -> None:
    """The same as `require_harmless_h5` for the HDF5 files in a harmless archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.filename.endswith(".h5"):
                    _require_harmless_member(path, archive, member)
    except (OSError, ValueError, *NO_ARCHIVE) as error:
        raise unreadable("is no zip archive", str(path), error) from error


def _require_harmless_member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    if member.compress_type == zipfile.ZIP_STORED:
        with path.open("rb") as file:
            window = extract.Window(file.fileno(), start_of(file, member))
            require_harmless_h5(path, window)
        return
    # Out of a stream, since HDF5 goes back and forth.
    with tempfile.TemporaryFile() as copy:
        with archive.open(member) as stream:
            shutil.copyfileobj(stream, copy)
        require_harmless_h5(path, copy)


_REMEDY = "nothing was loaded; such a file was not written by Keras or by this package"
