"""A snapshot as the files of a checkpoint, with the manifest that promises them.

Every variable of the snapshot is in at least one file: in the model file where
that format has a place for it, else in `state.h5`.
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
from keras_savekit.formats.hdf5.fill import Written
from keras_savekit.formats.hdf5.template import Compression, Layout, Template
from keras_savekit.formats.model_format import ModelFormat
from keras_savekit.store import syscalls
from keras_savekit.store.manifest import MANIFEST, FileEntry, Manifest, TensorEntry, to_json

Layouts = dict[str, Layout]  # by the file's name
Files = Mapping[str, Written]  # too


@dataclass(frozen=True, slots=True)
class Purpose:
    """Why a checkpoint is written, in the words its manifest will carry."""

    run: str
    plan: str
    reasons: tuple[str, ...]
    created: float
    format: ModelFormat
    compression: Compression = None


class Forms:
    """What the checkpoints of one `fit` have in common: all but tensors and a few texts."""

    def __init__(self) -> None:
        self._blueprint: Blueprint | None = None
        self._layouts: dict[str, Layouts] = {}  # by the name of the model file
        self._forms: dict[str, Template] = {}
        self.architecture = ""  # its digest
        self.written: Files = {}  # by the last `write`

    def layouts(self, snapshot: Snapshot, model_format: ModelFormat) -> Layouts:
        """The layout of each file of a checkpoint."""
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

    def form(self, key: str, layout: Layout, values: list[Array]) -> Template:
        """Of one file; its last one, if that serves again."""
        before = self._forms.get(key)
        if before is not None and before.serves(layout, values):
            return before
        form = Template(layout, values)
        if layout.compression is None:  # else it holds the tensors too
            self._forms[key] = form
        return form


def write(
    directory: Path,
    snapshot: Snapshot,
    purpose: Purpose,
    forms: Forms | None = None,
    base: Files | None = None,
    key: Key | None = None,
) -> Manifest:
    """Write all files of a checkpoint into an existing, empty directory.

    forms: of the checkpoints before it.
    key: to sign the manifest with, which then has the SHA-256 of each file.
    base: the files of one of them, to share blocks with.

    Nothing is synced or published here. The manifest is written last.
    """
    forms = forms or Forms()
    layouts = {
        name: replace(layout, compression=purpose.compression)
        for name, layout in forms.layouts(snapshot, purpose.format).items()
    }
    blueprint = snapshot.blueprint
    values = [as_array(tensor) for tensor in snapshot.tensors]
    values.append(state_h5.encode(snapshot.state))
    values += state_h5.asset_values(blueprint)
    written: dict[str, Written] = {}
    sha256 = key is not None
    for name, layout in layouts.items():
        form = forms.form(f"{purpose.format.name} {name}", layout, values)
        before = (base or {}).get(name)
        with FileWriter(directory / name, sha256=sha256) as stream:
            if name == purpose.format.file:
                written[name] = purpose.format.write(
                    stream, blueprint, form, values, purpose.created, before
                )
            else:
                written[name] = fill.write(stream, form, values, before)
    forms.written = written
    files = [each.entry for each in written.values()]
    digests = {at: digest for each in written.values() for at, digest in each.digests.items()}
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
        architecture=forms.architecture,
    )
    syscalls.write_new(directory / MANIFEST, to_json(manifest, key))
    return manifest


def moved(files: Files, directory: Path) -> Files:
    """The same files, in the directory of this checkpoint."""
    return {name: replace(each, path=directory / name) for name, each in files.items()}


def model_layout(snapshot: Snapshot, model_format: ModelFormat) -> Layout:
    """The layout of a model file, with what it says of its own snapshot."""
    return _with_attributes(model_format.layout(snapshot.blueprint), snapshot, model_format)


def _with_attributes(layout: Layout, snapshot: Snapshot, model_format: ModelFormat) -> Layout:
    attributes = model_format.attributes(snapshot)
    if not attributes:
        return layout
    return replace(layout, groups={**layout.groups, "": {**layout.groups[""], **attributes}})


def positions_outside(layout: Layout, blueprint: Blueprint) -> list[int]:
    """Everything of a snapshot that a file has no place for."""
    held = {dataset.position for dataset in layout.datasets}
    return [position for position in range(len(blueprint.variables)) if position not in held]


def _offsets(files: Files) -> dict[tuple[str, int], int]:
    """Where in each file the values begin that it holds as they are, by its name and position."""
    return {
        (name, extent.position): written.begin + extent.offset
        for name, written in files.items()
        for extent in written.form.extents
        if extent.dtype is None
    }


def tensor_entries(
    snapshot: Snapshot,
    layouts: dict[str, Layout],
    values: list[Array],
    known: Mapping[int, str],
    offsets: Mapping[tuple[str, int], int],
) -> tuple[TensorEntry, ...]:
    """Every variable that has a place in one of the layouts, by the names of their files.

    known: digests that were taken already, by position.
    offsets: where values begin, as far as known, by the file's name and position.
    """
    places: dict[int, list[str]] = {}
    begins: dict[int, list[int | None]] = {}
    for name, layout in layouts.items():
        for dataset in layout.datasets:
            places.setdefault(dataset.position, []).append(f"{name}:/{dataset.path}")
            begins.setdefault(dataset.position, []).append(offsets.get((name, dataset.position)))
    return tuple(
        TensorEntry(
            role=variable.role,
            index=variable.index,
            name=variable.name,
            shape=variable.shape,
            dtype=variable.dtype,
            digest=known.get(position) or tensor_digest(values[position]),
            places=tuple(places[position]),
            offsets=tuple(begins[position]),
        )
        for position, variable in enumerate(snapshot.blueprint.variables)
        if position in places
    )


def write_text(path: Path, text: bytes, *, sha256: bool = False) -> FileEntry:
    """Write a small file; return what a manifest promises of it."""
    syscalls.write_new(path, text)
    strong = hashlib.sha256(text).hexdigest() if sha256 else None
    return FileEntry(path.name, len(text), xxhash.xxh3_128_hexdigest(text), strong)
