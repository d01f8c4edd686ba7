"""Write a model, or its weights, into one file that is complete without a checkpoint directory.

The file has the layout of its format, so stock Keras reads it. It also contains two things
of this package: the variables that the format has no place for, and a manifest with a digest
of each tensor. With these digests, damage is found before the model is built.
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
from keras_savekit.store.manifest import FileEntry, Manifest
from keras_savekit.store.manifest_json import MAX_MANIFEST_BYTES, manifest_from_json, to_json
from keras_savekit.store.read_errors import unreadable

MANIFEST_DATASET = "savekit_manifest"
STATE_GROUP = "savekit_state"


def write(path: Path, snapshot: Snapshot, created: float) -> Manifest:
    """Write a snapshot into a new file; return its manifest.

    created: seconds since 1970.
    """
    blueprint, model_format = snapshot.blueprint, format_of(path)
    layout = checkpoint.layout_of(snapshot, model_format)
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
        model_file="",  # the file may be renamed later
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
        template = Template(whole, values)
        written = model_format.write(stream, blueprint, template, values, created)
    return _with_file(manifest, written.entry)


def architecture_path(weights: Path) -> Path:
    """Return the path of the file that contains the architecture for a weights file."""
    return weights.with_name(weights.name.removesuffix(format_of(weights).suffix) + ".json")


def read_manifest(path: Path) -> Manifest | None:
    """Read the manifest from a file; return None if `write` did not write the file.

    Raises CheckpointError if the file is not an HDF5 file or its manifest is damaged.
    """
    try:
        known = find_format(path.name)
        base = known.hdf5_begins(path) if known else 0  # Keras reads HDF5 files with any name
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
    return _with_file(manifest_from_json(text, str(path)), FileEntry(path.name, size, ""))


def _with_file(manifest: Manifest, entry: FileEntry) -> Manifest:
    tensors = (
        replace(tensor, places=tuple(entry.name + place for place in tensor.places))
        for tensor in manifest.tensors
    )
    return replace(manifest, model_file=entry.name, files=(entry,), tensors=tuple(tensors))
