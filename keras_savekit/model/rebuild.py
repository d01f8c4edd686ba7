"""Files and checkpoints become models again: everything that was saved, or nothing.

What this package wrote is checked against the digests taken from memory before
a model is made of it. What others wrote is looked through for traps and then
left to stock Keras. No code from a file is run but with `safe_mode=False`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from keras_savekit.base.key import Key
from keras_savekit.base.roles import Role
from keras_savekit.base.tensors import Array
from keras_savekit.errors import CheckpointError, MismatchError, ModelError, SavekitError
from keras_savekit.formats import single_file, state_h5
from keras_savekit.formats.checkpoint import ARCHITECTURE_FILE
from keras_savekit.formats.config_digest import unwrapped
from keras_savekit.formats.dtypes import by_name, narrowed
from keras_savekit.formats.embedded_code import code_in, code_of_compile, names_in
from keras_savekit.formats.hdf5 import access
from keras_savekit.formats.registry import FORMATS, find_format, format_of
from keras_savekit.formats.single_file import architecture_beside
from keras_savekit.model.assign import Tensors, assign, read_tensors, require_computed, require_same
from keras_savekit.model.saving_walk import deserialized, put, put_assets, walk
from keras_savekit.model.structure import describe, require_built, variables_by_role
from keras_savekit.store.manifest import Finding, Manifest
from keras_savekit.store.manifest_json import read_manifest
from keras_savekit.store.read_errors import unreadable
from keras_savekit.store.run import resolve_link
from keras_savekit.verify.bytes import check_bytes
from keras_savekit.verify.tensors import check_structure, parts_of

_SHOWN = 5  # of what is wrong with one file
_GIVE = "give the classes and functions it needs as custom_objects=, or register them"


@dataclass(frozen=True, slots=True)
class _Stored:
    """What this package wrote: its manifest, and where its files are."""

    directory: Path
    manifest: Manifest
    architecture: Path

    @property
    def file(self) -> Path:
        return self.directory / self.manifest.model_file


def load_model(
    path: str | os.PathLike[str],
    custom_objects: Mapping[str, Any] | None = None,
    compile: bool = True,  # noqa: A002 - Keras's own name for it
    safe_mode: bool = True,
    key: bytes | None = None,
) -> Any:
    """The model in a `.h5`, `.keras` or `.weights.h5` file or in a checkpoint's directory.

    Of what this package wrote, every weight, seed generator and, with `compile`,
    every variable of the optimizer comes back bit for bit, with all settings
    that `compile` was given. So do metrics that the model has before its first
    batch: the loss, and its own; those of `compile` Keras makes with that batch,
    when it resets all of them. Of what others wrote: what stock Keras restores.

    custom_objects: classes and functions by the names they were saved under.
        Registered ones are found without.
    compile: whether to compile the model as it was, if it was.
    safe_mode: False lets code run that lies in the file: lambdas, and graphs that
        `to_keras` embedded. Graphs that this process made itself run without.
    key: that the checkpoint must be signed with (`signing` in the policy).

    Raises CheckpointError if the file is damaged, harmful, or no model;
    ModelError if the model needs code that is not given.
    """
    path = Path(path)
    stored = _stored(path, _as_key(key))
    with keras.saving.custom_object_scope(dict(custom_objects or {})):
        if stored is None:
            if safe_mode:
                _require_no_code(path, *_foreign_configurations(path))
            with _building(path):
                return keras.models.load_model(path, compile=compile, safe_mode=safe_mode)
        return _rebuild(stored, compile=compile, safe_mode=safe_mode)


def load_weights(model: Any, path: str | os.PathLike[str], *, key: bytes | None = None) -> None:
    """Set the model's weights from a file or a checkpoint's directory: all or none.

    The optimizer is left alone, but by a `.keras` file of stock Keras, whose reader
    restores it too. Files may be of this package or of stock Keras.

    key: that the checkpoint must be signed with (`signing` in the policy).

    Raises MismatchError, naming every difference (missing, extra, other shape,
    other dtype), or CheckpointError; the model is then unchanged. ModelError if
    the model is not built.
    """
    path = Path(path)
    require_built(model)
    stored = _stored(path, _as_key(key))
    if stored is not None:
        tensors = read_tensors(stored.directory, stored.manifest)
        require_same(model, stored.manifest, ("weight",), str(path))
        with _all_or_none(model):
            assign(model, tensors, ("weight",))
            require_computed(model, tensors, stored.manifest, str(path))
    elif getattr(find_format(path.name), "save", None) == "weights":
        values = _weights_by_path(model, path)
        with _all_or_none(model):
            failures = put(model, values)
            if failures:
                what = "layers refuse their weights:\n  " + "\n  ".join(failures)
                raise MismatchError(what, str(path), "nothing was changed")
    else:
        with _all_or_none(model), _building(path):
            model.load_weights(path)


def _as_key(secret: bytes | None) -> Key | None:
    return None if secret is None else Key(secret)


def _stored(path: Path, key: Key | None) -> _Stored | None:
    """What this package wrote at `path`, checked; None for what others wrote."""
    if key is not None and not path.is_dir():
        remedy = "give the directory of a checkpoint, or no key"
        raise CheckpointError("only checkpoints of a run are signed", str(path), remedy)
    if path.is_dir():
        path = resolve_link(path)
        manifest = read_manifest(path, key)
        stored = _Stored(path, manifest, path / ARCHITECTURE_FILE)
        promised = {entry.name for entry in manifest.files}
        # A damaged HDF5 file must not even be opened: the library may never return.
        parts = parts_of(manifest)
        findings = check_bytes(path, manifest, sha256=key is not None, parts=parts)
        _require_none(path, [each for each in findings if each.where in promised])
    elif not path.is_file():
        raise CheckpointError("no such file or directory", str(path), "check the path")
    else:
        known = find_format(path.name) or FORMATS["h5"]  # Keras reads HDF5 under any name
        known.require_harmless(path)
        found = single_file.read_manifest(path)
        if found is None:
            return None
        stored, parts = _Stored(path.parent, found, architecture_beside(path)), {}
    _require_none(path, check_structure(stored.directory, stored.manifest, parts=parts))
    return stored


def _require_none(path: Path, findings: Sequence[Finding]) -> None:
    if findings:
        more = f" and {len(findings) - 1} more" if findings[1:] else ""
        raise CheckpointError(f"is damaged: {findings[0]}{more}", str(path))


def _rebuild(stored: _Stored, *, compile: bool, safe_mode: bool) -> Any:  # noqa: A002
    config, compiled = _configurations(stored)
    if safe_mode:
        _require_no_code(stored.file, config, compiled)
    tensors = read_tensors(stored.directory, stored.manifest)
    with _building(stored.file):
        model = deserialized(config, safe_mode=safe_mode)
        if compile and compiled:
            model.compile_from_config(compiled)
        put_assets(model, _assets(stored))
    roles: list[Role] = ["weight"]
    if any(role == "seed" for role, _ in tensors):
        roles.append("seed")
    if model.compiled and _has_slots(model, stored.manifest):
        roles.append("optimizer")
    require_same(model, stored.manifest, roles, str(stored.file))
    assign(model, tensors, roles)
    _assign_metrics(model, stored.manifest, tensors)
    require_computed(model, tensors, stored.manifest, str(stored.file))
    return model


def _assign_metrics(model: Any, manifest: Manifest, tensors: Tensors) -> None:
    """Those that there are; others Keras makes with their first batch, when it resets them all."""
    saved = {entry.name: entry for entry in manifest.tensors if entry.role == "metric"}
    for variable in variables_by_role(model)["metric"]:
        entry = saved.get(variable.path)
        if entry is not None and entry.shape == tuple(variable.shape):
            variable.assign(tensors["metric", entry.index])


def _configurations(stored: _Stored) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The architecture, and what `compile` was given."""
    try:
        texts = format_of(stored.file).read_texts(stored.file, stored.architecture)
        config, compiled = unwrapped(json.loads(texts.model)), json.loads(texts.compile)
        inside = config.pop("compile_config", None)
        return config, inside if compiled is None else compiled
    except (OSError, LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise unreadable("its architecture cannot be read", str(stored.file), error) from error


def _foreign_configurations(path: Path) -> tuple[Any, Any]:
    """The same of a file by others; None for what is not there, which Keras reports."""
    try:
        known = format_of(path)
        if known.save == "weights":  # by its name; stock Keras looks for a model in it all the same
            known = FORMATS["h5"]
        texts = known.read_texts(path, path)
        config, compiled = json.loads(texts.model), json.loads(texts.training)
        inside = config.get("compile_config") if isinstance(config, dict) else None
        return config, inside if compiled is None else compiled
    except (KeyError, ModelError):
        return None, None
    except (OSError, ValueError, TypeError, RuntimeError, RecursionError) as error:
        raise unreadable("its architecture cannot be read", str(path), error) from error


def _require_no_code(path: Path, config: Any, compiled: Any) -> None:
    """Raise ModelError, naming the layers, if loading would run code that is not Keras's.

    Not left to Keras: older versions run the lambdas of a `.h5` file in safe mode too.
    """
    code = [*code_in(config, "the model"), *code_of_compile(compiled)]
    if code:
        held = ", ".join(dict.fromkeys(f"{what} in {place}" for place, what in code[:_SHOWN]))
        remedy = "if you trust whoever made the file, load it with safe_mode=False"
        raise ModelError(f"holds Python code, which is not run: {held}", str(path), remedy)
    names = list(names_in([config, compiled], _is_registered))
    if names:
        needed = ", ".join(dict.fromkeys(names[:_SHOWN]))
        what = f"Keras cannot build this model: it needs {needed}, which nobody registered"
        raise ModelError(what, str(path), _GIVE)


def _is_registered(name: str) -> bool:
    return keras.saving.get_registered_object(name) is not None


def _assets(stored: _Stored) -> dict[str, bytes]:
    inside = format_of(stored.file).read_assets(stored.file)
    if inside is not None:
        return inside
    beside = stored.directory / state_h5.STATE_FILE
    if any(entry.name == state_h5.STATE_FILE for entry in stored.manifest.files):
        return state_h5.read_assets(beside)
    return state_h5.read_assets(stored.file, prefix=f"{single_file.STATE_GROUP}/")


def _has_slots(model: Any, manifest: Manifest) -> bool:
    """Whether the optimizer had been built when it was saved."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    fresh = type(model.optimizer).from_config(model.optimizer.get_config())
    saved = sum(entry.role == "optimizer" for entry in manifest.tensors)
    return saved == len(model.optimizer.variables) or saved != len(fresh.variables)


def _weights_by_path(model: Any, path: Path) -> dict[str, Array]:
    """Every weight of a `.weights.h5` file by its path, after comparing with the model's."""
    live = {id(variable) for variable in variables_by_role(model)["weight"]}
    wanted = {
        name: describe("weight", 0, value) if id(value) in live else None
        for name, value in walk(model).values.items()
        if not name.startswith("optimizer/")
    }
    found: dict[str, Array] = {}
    differences = []
    with _reading(path), access.reading(path) as file:
        present = _datasets(file)
        differences += [f"{name} is missing in the file" for name in wanted if name not in present]
        differences += [f"{name} is only in the file" for name in present if name not in wanted]
        for name in wanted.keys() & present.keys():
            variable, dataset = wanted[name], present[name]
            dtype = dataset.attrs.get("dtype", dataset.dtype.name)
            if variable is not None and (variable.shape, variable.dtype) != (dataset.shape, dtype):
                differences.append(
                    f"{name} is {dtype}{list(dataset.shape)} in the file, "
                    f"{variable.dtype}{list(variable.shape)} in the model"
                )
            elif not differences:
                found[name] = _value(dataset, dtype)
    if differences:
        shown = "\n  ".join(sorted(differences)[:10])
        more = f"\n  and {len(differences) - 10} more" if len(differences) > 10 else ""
        what = f"the file belongs to another architecture:\n  {shown}{more}"
        raise MismatchError(what, str(path), "nothing was changed")
    return found


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """The seam to what h5py and NumPy raise over a file that others wrote."""
    try:
        yield
    except (OSError, LookupError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        raise unreadable("cannot be read", str(path), error) from error


def _datasets(file: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith("optimizer/"):
            found[name] = item

    file.visititems(visit)
    return found


def _value(dataset: Any, dtype: str) -> Array:
    return narrowed(np.asarray(dataset), by_name(dtype))


@contextmanager
def _all_or_none(model: Any) -> Iterator[None]:
    """Put the model's variables back if what is done within fails."""
    before = [(variable, variable.value.read_value()) for variable in model.variables]
    try:
        yield
    except BaseException:
        for variable, value in before:
            variable.assign(value)
        raise


@contextmanager
def _building(path: Path) -> Iterator[None]:
    """The seam where Keras makes objects of a configuration, and says in many ways why not."""
    try:
        yield
    except SavekitError:
        raise
    except MemoryError as error:
        raise CheckpointError("asks for more memory than there is", str(path)) from error
    except Exception as error:
        said = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        if "unsafe" in str(error) or "lambda" in str(error).lower():
            remedy = "if you trust whoever made the file, load it with safe_mode=False"
            what = f"holds Python code, which is not run: {said}"
            raise ModelError(what, str(path), remedy) from error
        raise ModelError(f"Keras cannot build this model: {said}", str(path), _GIVE) from error
