"""A snapshot as the files of a checkpoint, with the manifest that promises them.

Every variable of the snapshot is in at least one file: in the model file where
that format has a place for it, else in `state.h5`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import xxhash

from keras_savekit.formats import full_h5, h5_file, keras_archive, training_state, weights_h5
from keras_savekit.formats.h5_file import Compression, Layout
from keras_savekit.formats.snapshot import Array, Blueprint, Snapshot, as_array
from keras_savekit.store import disk
from keras_savekit.store.manifest import MANIFEST, FileEntry, Manifest, TensorEntry, to_json

Save = Literal["model", "weights"]
Format = Literal["h5", "keras", "weights.h5"]
MODEL_FILES: dict[Format, str] = {
    "h5": "model.h5",
    "keras": "model.keras",
    "weights.h5": "model.weights.h5",
}
ARCHITECTURE_FILE = "model.json"


@dataclass(frozen=True, slots=True)
class Purpose:
    """Why a checkpoint is written, in the words its manifest will carry."""

    run: str
    plan: str
    save: Save
    reasons: tuple[str, ...]
    created: float
    format: Format
    compression: Compression = None


def write(directory: Path, snapshot: Snapshot, purpose: Purpose) -> Manifest:
    """Write all files of a checkpoint into an existing, empty directory.

    Nothing is synced or published here. The manifest is written last.
    """
    layouts = {
        name: replace(layout, compression=purpose.compression)
        for name, layout in _layouts(snapshot, purpose.format).items()
    }
    values = [as_array(tensor) for tensor in snapshot.tensors]
    values.append(training_state.encode(snapshot.state))
    values += training_state.asset_values(snapshot.blueprint)
    files = [
        write_file(directory / name, snapshot.blueprint, layout, values, purpose.created)
        for name, layout in layouts.items()
    ]
    if purpose.save == "weights":
        text = snapshot.blueprint.model_config.encode()
        files.append(write_text(directory / ARCHITECTURE_FILE, text))
    manifest = Manifest(
        run=purpose.run,
        plan=purpose.plan,
        save=purpose.save,
        reasons=purpose.reasons,
        moment=snapshot.moment,
        created=purpose.created,
        model_file=MODEL_FILES[purpose.format],
        files=tuple(files),
        tensors=tensor_entries(snapshot, layouts, values),
        versions=snapshot.blueprint.versions,
    )
    disk.write_new(directory / MANIFEST, to_json(manifest))
    return manifest


def write_file(
    path: Path, blueprint: Blueprint, layout: Layout, values: list[Array], created: float
) -> FileEntry:
    """Write one file, of the kind its name says."""
    if path.suffix == ".keras":
        return keras_archive.write(path, blueprint, layout, values, created)
    return h5_file.write(path, layout, values)


def model_layout(snapshot: Snapshot, format: Format) -> Layout:  # noqa: A002 - the policy's word
    """The layout of a model file."""
    if format == "h5":
        return full_h5.layout(snapshot)
    return weights_h5.layout(snapshot.blueprint)


def _layouts(snapshot: Snapshot, format: Format) -> dict[str, Layout]:  # noqa: A002
    blueprint = snapshot.blueprint
    model = model_layout(snapshot, format)
    rest = positions_outside(model, blueprint)
    state = training_state.layout(blueprint, rest, state_position=len(blueprint.variables))
    return {MODEL_FILES[format]: model, training_state.STATE_FILE: state}


def positions_outside(layout: Layout, blueprint: Blueprint) -> list[int]:
    """Everything of a snapshot that a file has no place for."""
    held = {dataset.position for dataset in layout.datasets}
    return [position for position in range(len(blueprint.variables)) if position not in held]


def tensor_entries(
    snapshot: Snapshot, layouts: dict[str, Layout], values: list[Array]
) -> tuple[TensorEntry, ...]:
    """Every variable that has a place in one of the layouts, by the names of their files."""
    places: dict[int, list[str]] = {}
    for name, layout in layouts.items():
        for dataset in layout.datasets:
            places.setdefault(dataset.position, []).append(f"{name}:/{dataset.path}")
    return tuple(
        TensorEntry(
            role=variable.role,
            index=variable.index,
            name=variable.name,
            shape=variable.shape,
            dtype=variable.dtype,
            digest=h5_file.tensor_digest(values[position]),
            places=tuple(places[position]),
        )
        for position, variable in enumerate(snapshot.blueprint.variables)
        if position in places
    )


def write_text(path: Path, text: bytes) -> FileEntry:
    """Write a small file; return its size and digest."""
    disk.write_new(path, text)
    return FileEntry(path.name, len(text), xxhash.xxh3_128_hexdigest(text))
