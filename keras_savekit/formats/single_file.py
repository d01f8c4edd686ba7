"""A model, or its weights, in one file that needs no directory around it.

The file is what `full_h5` or `weights_h5` lays out, so stock Keras reads it.
Beside Keras's own groups it has two of ours: every variable that format has no
place for, and a manifest with a digest of every tensor, so that a file that was
damaged is known before anything is made of it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from keras_savekit.base.tensors import Snapshot, as_array
from keras_savekit.errors import CheckpointError
from keras_savekit.formats import checkpoint, config_digest, state_h5
from keras_savekit.formats.directio.writer import FileWriter
from keras_savekit.formats.hdf5 import extract
from keras_savekit.formats.hdf5.template import Dataset, Layout, Template
from keras_savekit.formats.registry import find_format, format_of
from keras_savekit.store.manifest import (
    MAX_MANIFEST_BYTES,
    FileEntry,
    Manifest,
    manifest_from_json,
    to_json,
)
from keras_savekit.store.read_errors import unreadable

MANIFEST_DATASET = "savekit_manifest"
STATE_GROUP = "savekit_state"


def write(path: Path, snapshot: Snapshot, created: float) -> Manifest:
    """Write a snapshot into a new file; return what the file promises.

    created: seconds since 1970.
    """
    blueprint, model_format = snapshot.blueprint, format_of(path)
    layout = checkpoint.model_layout(snapshot, model_format)
    rest = checkpoint.positions_outside(layout, blueprint)
    datasets = (
        *layout.datasets,
        *state_h5.variables(blueprint, rest, prefix=f"{STATE_GROUP}/"),
    )
    values = [as_array(tensor) for tensor in snapshot.tensors]
    extra = state_h5.assets(blueprint, len(values), prefix=f"{STATE_GROUP}/")
    manifest = Manifest(
        run="",
        plan="",
        save=model_format.save,
        reasons=(),
        moment=snapshot.moment,
        created=created,
        model_file="",  # whatever the file is called
        files=(),
        tensors=checkpoint.tensor_entries(snapshot, {"": Layout({}, datasets)}, values, {}, {})
        + state_h5.asset_entries(blueprint, prefix=f"{STATE_GROUP}/"),
        versions=blueprint.versions,
        architecture=config_digest.digest(json.loads(blueprint.model_config)),
    )
    values += state_h5.asset_values(blueprint)
    values.append(np.frombuffer(to_json(manifest), np.uint8))
    last = Dataset(MANIFEST_DATASET, len(values) - 1)
    whole = Layout(layout.groups, (*datasets, *extra, last))
    with FileWriter(path) as stream:
        form = Template(whole, values)
        written = model_format.write(stream, blueprint, form, values, created)
    return _named(manifest, written.entry)


def architecture_beside(weights: Path) -> Path:
    """The file beside a `.weights.h5` file that has its architecture."""
    return weights.with_name(weights.name.removesuffix(format_of(weights).suffix) + ".json")


def read_manifest(path: Path) -> Manifest | None:
    """The manifest inside a file, None for a file that was not written by `write`.

    Raises CheckpointError if the file is no HDF5 file or its manifest is damaged.
    """
    try:
        known = find_format(path.name)
        base = known.hdf5_begins(path) if known else 0  # Keras reads HDF5 under any name
        with extract.open_hdf5(path, base) as (file, _):
            if file.get(MANIFEST_DATASET, getclass=True, getlink=True) is not h5py.HardLink:
                return None
            dataset = file[MANIFEST_DATASET]
            if dataset.dtype != np.uint8 or dataset.ndim != 1 or dataset.size > MAX_MANIFEST_BYTES:
                raise CheckpointError("its manifest is not one text", str(path))
            text = bytes(dataset[()])
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise unreadable("cannot be read", str(path), error) from error
    size = path.stat().st_size
    return _named(manifest_from_json(text, str(path)), FileEntry(path.name, size, ""))


def _named(manifest: Manifest, entry: FileEntry) -> Manifest:
    tensors = (
        replace(tensor, places=tuple(entry.name + place for place in tensor.places))
        for tensor in manifest.tensors
    )
    return replace(manifest, model_file=entry.name, files=(entry,), tensors=tuple(tensors))
