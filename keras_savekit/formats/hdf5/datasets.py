"""Refuse datasets whose data are in other files, or not there at all."""

from __future__ import annotations

from typing import Any

import h5py

from keras_savekit.base.defects import DefectError
from keras_savekit.store.read_errors import system_failure

MOST_EXPANDED = 1100  # times the stored size; DEFLATE expands by 1032 at most


def own_dataset(hdf5: Any, path: str) -> Any:
    """Return the dataset at `path` if only hard links lead to it and its data are in the file.

    Raises DefectError for any other dataset, and any error of h5py for damaged files.
    """
    links, at = hdf5.id.links, b""
    for part in path.strip("/").split("/"):
        at = at + b"/" + part.encode() if at else part.encode()
        if not _exists(links, at):
            raise DefectError("missing", "is missing")
        if links.get_info(at).type != h5py.h5l.TYPE_HARD:
            raise DefectError("link", "is a link, not a dataset")
    dataset = hdf5[at]
    if not isinstance(dataset, h5py.Dataset):
        raise DefectError("missing", "is not a dataset")
    require_own_data(dataset)
    if dataset.dtype.hasobject:
        raise DefectError("dtype", "contains texts or references, not numbers")
    return dataset


def _exists(links: Any, at: bytes) -> bool:
    try:
        return bool(links.exists(at))
    except (KeyError, RuntimeError) as error:
        if system_failure(error):
            raise
        return False  # a part of the path is not a group


def require_own_data(dataset: Any) -> None:
    """Raise DefectError unless all data of a dataset are in its file."""
    creation = dataset.id.get_create_plist()
    if creation.get_layout() == h5py.h5d.VIRTUAL or creation.get_external_count():
        raise DefectError("link", "keeps its data in other files")
    size = (dataset.size or 0) * dataset.dtype.itemsize
    stored = dataset.id.get_storage_size()
    if dataset.chunks is None:
        # HDF5 reports 0 for space that was reserved and never written.
        if stored not in (0, size) or stored == 0 < size:
            raise DefectError("size", f"claims {size} bytes; {stored} are there")
    elif size > MOST_EXPANDED * stored:
        raise DefectError("size", f"claims {size} bytes; {stored} are there")
