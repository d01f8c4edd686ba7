"""Files from anywhere: what must be known of one before Keras is let near it.

Refuses what would make a reader follow a path out of the file, ask for memory
that the file cannot fill, or never come back. Whether the content makes sense
is for whoever reads it.
"""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import h5py

from keras_savekit.errors import CheckpointError

MOST_EXPANDED = 1100  # no DEFLATE stream grows by more than 1032
ARCHIVE_EXPANDED = 100  # members of a `.keras` archive are stored as they are
ARCHIVE_FLOOR = 2**28


def require_harmless_h5(path: Path) -> None:
    """Raise CheckpointError unless every tensor of an HDF5 file lies in the file itself."""
    limit = MOST_EXPANDED * path.stat().st_size
    try:
        with h5py.File(path, "r") as file:
            seen: set[int] = set()
            pending: list[tuple[str, Any]] = [("", file)]
            while pending:
                name, item = pending.pop()
                address = h5py.h5o.get_info(item.id).addr
                if address in seen:
                    continue
                seen.add(address)
                if isinstance(item, h5py.Dataset):
                    _require_own_data(item, f"{path}:{name}", limit)
                elif isinstance(item, h5py.Group):
                    _require_hard_links(item, f"{path}:{name}")
                    pending += [(f"{name}/{key}", item[key]) for key in item]
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"cannot be read: {error}", str(path)) from error


def _require_hard_links(group: Any, where: str) -> None:
    for key in group:
        if group.get(key, getclass=True, getlink=True) is not h5py.HardLink:
            raise CheckpointError("is a link to somewhere else", f"{where}/{key}", _REMEDY)


def _require_own_data(dataset: Any, where: str, limit: int) -> None:
    creation = dataset.id.get_create_plist()
    if creation.get_layout() == h5py.h5d.VIRTUAL or creation.get_external_count():
        raise CheckpointError("keeps its data in other files", where, _REMEDY)
    size = (dataset.size or 0) * dataset.dtype.itemsize
    held = dataset.id.get_storage_size()
    if size > limit or (dataset.chunks is None and held not in (0, size)):
        raise CheckpointError(f"claims {size} bytes, of which {held} are there", where, _REMEDY)


def require_harmless_zip(path: Path) -> None:
    """Raise CheckpointError unless every member of a `.keras` archive stays inside it."""
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                name = PurePosixPath(member.filename)
                where = f"{path}:{member.filename}"
                if name.is_absolute() or ".." in name.parts or "\\" in member.filename:
                    raise CheckpointError("leads out of the archive", where, _REMEDY)
                if member.file_size > max(ARCHIVE_FLOOR, ARCHIVE_EXPANDED * member.compress_size):
                    what = f"claims {member.file_size} bytes in {member.compress_size}"
                    raise CheckpointError(what, where, _REMEDY)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"is no zip archive: {error}", str(path)) from error


_REMEDY = "nothing was loaded; such a file was not written by Keras or by this package"
