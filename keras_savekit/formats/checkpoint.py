"""Write a snapshot as the files of a checkpoint, with a manifest that describes them.

Each variable of the snapshot is in at least one file: in the model file if that format
has a place for it, else in `state.h5`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import xxhash

from keras_savekit.base.digests import tensor_digest
from keras_savekit.base.key import Key
from keras_savekit.base.tensors import Array, Blueprint, Snapshot, as_array
from keras_savekit.formats import config_digest, state_h5
from keras_savekit.formats.directio.writer import FileWriter
from keras_savekit.formats.hdf5 import fill
from keras_savekit.formats.hdf5.fill import WrittenFile
from keras_savekit.formats.hdf5.template import Compression, Layout, Template
from keras_savekit.formats.model_format import ModelFormat
from keras_savekit.store import syscalls
from keras_savekit.store.manifest import MANIFEST, FileEntry, Manifest, TensorEntry
from keras_savekit.store.manifest_json import to_json

Layouts = dict[str, Layout]  # file name to layout
WrittenFiles = Mapping[str, WrittenFile]  # file name to file


@dataclass(frozen=True, slots=True)
class Purpose:
    """Why a checkpoint is written, as its manifest says it, and in which format."""

    run: str
    plan: str
    reasons: tuple[str, ...]
    created: float
    format: ModelFormat
    compression: Compression = None


class Templates:
    """Layouts and HDF5 templates that the checkpoints of one `fit` share."""

    def __init__(self) -> None:
        self._blueprint: Blueprint | None = None
        self._layouts: dict[str, Layouts] = {}  # by the name of the model file
        self._templates: dict[str, Template] = {}
        self.architecture = ""  # digest
        self.written: WrittenFiles = {}  # the files of the last `write`

    def layouts(self, snapshot: Snapshot, model_format: ModelFormat) -> Layouts:
        """Return the layout of each file of a checkpoint."""
        blueprint, name = snapshot.blueprint, model_format.file
        if blueprint != self._blueprint:
            self._blueprint = blueprint
            self._layouts.clear()
            self.architecture = config_digest.digest(json.loads(blueprint.model_config))
        if name not in self._layouts:
            model = model_format.layout(blueprint)
            rest = positions_outside(model, blueprint)
            state = state_h5.layout(blueprint, rest, state_position=len(blueprint.variables))
            self._layouts[name] = {name: model, state_h5.STATE_FILE: state}
        layouts = dict(self._layouts[name])
        return layouts | {name: _with_attributes(layouts[name], snapshot, model_format)}

    def template(self, key: str, layout: Layout, values: list[Array]) -> Template:
        """Return the template of one file: the previous one if it can be adapted, else a new one.

        key: names the file and its format.
        """
        previous = self._templates.get(key)
        if previous is not None and previous.adapt(layout, values):
            return previous
        template = Template(layout, values)
        if layout.compression is None:  # a compressed template contains the tensors too
            self._templates[key] = template
        return template


def write(
    directory: Path,
    snapshot: Snapshot,
    purpose: Purpose,
    templates: Templates | None = None,
    base: WrittenFiles | None = None,
    key: Key | None = None,
) -> Manifest:
    """Write all files of a checkpoint into an existing, empty directory.

    templates: those that the previous checkpoints of this `fit` used.
    base: files of a previous checkpoint, to share blocks with.
    key: signs the manifest, which then contains the SHA-256 of each file.

    Nothing is synced or published here. The manifest is written last.
    """
    templates = templates or Templates()
    layouts = {
        name: replace(layout, compression=purpose.compression)
        for name, layout in templates.layouts(snapshot, purpose.format).items()
    }
    blueprint = snapshot.blueprint
    values = [as_array(tensor) for tensor in snapshot.tensors]
    values.append(state_h5.encode(snapshot.state))
    values += state_h5.asset_values(blueprint)
    written: dict[str, WrittenFile] = {}
    sha256 = key is not None
    for name, layout in layouts.items():
        template = templates.template(f"{purpose.format.name} {name}", layout, values)
        previous = (base or {}).get(name)
        with FileWriter(directory / name, sha256=sha256) as stream:
            if name == purpose.format.file:
                written[name] = purpose.format.write(
                    stream, blueprint, template, values, purpose.created, previous
                )
            else:
                written[name] = fill.write(stream, template, values, previous)
    templates.written = written
    files = [file.entry for file in written.values()]
    digests = {
        position: digest for file in written.values() for position, digest in file.digests.items()
    }
    architecture_file = purpose.format.architecture_file
    if architecture_file:
        text = blueprint.model_config.encode()
        files.append(write_text(directory / architecture_file, text, sha256=sha256))
    manifest = Manifest(
        run=purpose.run,
        plan=purpose.plan,
        save=purpose.format.save,
        reasons=purpose.reasons,
        moment=snapshot.moment,
        created=purpose.created,
        model_file=purpose.format.file,
        files=tuple(files),
        tensors=tensor_entries(snapshot, layouts, values, digests, _offsets(written))
        + state_h5.asset_entries(blueprint, file=state_h5.STATE_FILE),
        versions=blueprint.versions,
        architecture=templates.architecture,
    )
    syscalls.write_new(directory / MANIFEST, to_json(manifest, key))
    return manifest


def relocate(files: WrittenFiles, directory: Path) -> WrittenFiles:
    """Return the same files with their paths in another directory, after it was published."""
    return {name: replace(file, path=directory / name) for name, file in files.items()}


def layout_of(snapshot: Snapshot, model_format: ModelFormat) -> Layout:
    """Return the layout of a model file, with the attributes of this snapshot."""
    return _with_attributes(model_format.layout(snapshot.blueprint), snapshot, model_format)


def _with_attributes(layout: Layout, snapshot: Snapshot, model_format: ModelFormat) -> Layout:
    attributes = model_format.attributes(snapshot)
    if not attributes:
        return layout
    return replace(layout, groups={**layout.groups, "": {**layout.groups[""], **attributes}})


def positions_outside(layout: Layout, blueprint: Blueprint) -> list[int]:
    """Return the positions of the variables that a layout has no dataset for."""
    included = {dataset.position for dataset in layout.datasets}
    return [position for position in range(len(blueprint.variables)) if position not in included]


def _offsets(files: WrittenFiles) -> dict[tuple[str, int], int]:
    """Return the offset of each value that is stored unchanged, by file name and position."""
    return {
        (name, extent.position): written.begin + extent.offset
        for name, written in files.items()
        for extent in written.template.extents
        if extent.dtype is None
    }


def tensor_entries(
    snapshot: Snapshot,
    layouts: dict[str, Layout],
    values: list[Array],
    known: Mapping[int, str],
    offsets: Mapping[tuple[str, int], int],
) -> tuple[TensorEntry, ...]:
    """Return the manifest's entry of each variable that is in one of the layouts.

    layouts: by file name.
    known: digests that are already computed, by position.
    offsets: where values begin in a file, if known, by file name and position.
    """
    places: dict[int, list[str]] = {}
    offsets_of: dict[int, list[int | None]] = {}
    for name, layout in layouts.items():
        for dataset in layout.datasets:
            places.setdefault(dataset.position, []).append(f"{name}:/{dataset.path}")
            offsets_of.setdefault(dataset.position, []).append(
                offsets.get((name, dataset.position))
            )
    return tuple(
        TensorEntry(
            role=variable.role,
            index=variable.index,
            name=variable.name,
            shape=variable.shape,
            dtype=variable.dtype,
            digest=known.get(position) or tensor_digest(values[position]),
            places=tuple(places[position]),
            offsets=tuple(offsets_of[position]),
        )
        for position, variable in enumerate(snapshot.blueprint.variables)
        if position in places
    )


def write_text(path: Path, text: bytes, *, sha256: bool = False) -> FileEntry:
    """Write a small file; return its entry for a manifest."""
    syscalls.write_new(path, text)
    sha256_text = hashlib.sha256(text).hexdigest() if sha256 else None
    return FileEntry(path.name, len(text), xxhash.xxh3_128_hexdigest(text), sha256_text)
