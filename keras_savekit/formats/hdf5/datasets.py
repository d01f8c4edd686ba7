"""Datasets whose content is a file's own: none in another file, none that is only claimed."""

from __future__ import annotations

from typing import Any

import h5py

from keras_savekit.base.defects import DefectError
from keras_savekit.store.read_errors import system_failure

MOST_EXPANDED = 1100  # no DEFLATE stream grows by more than 1032


def own_dataset(hdf5: Any, path: str) -> Any:
    """The dataset at `path`, reached by hard links alone, all of whose data are in the file.

    Raises DefectError for any other, and whatever h5py does over damage.
    """
    links, at = hdf5.id.links, b""
    for part in path.strip("/").split("/"):
        at = at + b"/" + part.encode() if at else part.encode()
        if not _exists(links, at):
            raise DefectError("missing", "is missing")
        if links.get_info(at).type != h5py.h5l.TYPE_HARD:
            raise DefectError("link", "is a link, not a dataset of its own")
    dataset = hdf5[at]
    if not isinstance(dataset, h5py.Dataset):
        raise DefectError("missing", "is not a dataset")
    require_own_data(dataset)
    if dataset.dtype.hasobject:
        raise DefectError("dtype", "holds texts or references, not numbers")
    return dataset


def _exists(links: Any, at: bytes) -> bool:
    try:
        return bool(links.exists(at))
    except (KeyError, RuntimeError) as error:
        if system_failure(error):
            raise
        return False  # what lies on the way is no group


def require_own_data(dataset: Any) -> None:
    """Raise DefectError unless all that a dataset claims lies in its file."""
    creation = dataset.id.get_create_plist()
    if creation.get_layout() == h5py.h5d.VIRTUAL or creation.get_external_count():
        raise DefectError("link", "keeps its data in other files")
    size = (dataset.size or 0) * dataset.dtype.itemsize
    held = dataset.id.get_storage_size()
    if dataset.chunks is None:
        # Space that was reserved and never written is no space at all.
        if held not in (0, size) or held == 0 < size:
            raise DefectError("size", f"claims {size} bytes, of which {held} are there")
    elif size > MOST_EXPANDED * held:
        raise DefectError("size", f"claims {size} bytes, of which {held} are there")
