"""Rebuild a model from what this package wrote: everything that was saved, or nothing.

The caller has checked the files. Code in a file runs only with `safe_mode=False`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from keras_savekit.base.roles import Role
from keras_savekit.errors import CheckpointError, ModelError, SavekitError
from keras_savekit.formats import single_file, state_h5
from keras_savekit.formats.config_digest import unwrap
from keras_savekit.formats.embedded_code import code_in, code_of_compile, names_in
from keras_savekit.formats.registry import format_of
from keras_savekit.formats.weights_h5 import ARCHITECTURE_FILE
from keras_savekit.model.assign import (
    Tensors,
    computed_values,
    read_tensors,
    require_same,
    restore_variables,
)
from keras_savekit.model.layer_loading import Extras
from keras_savekit.model.live_variables import variables_by_role
from keras_savekit.model.saving_walk import deserialize_model
from keras_savekit.store.manifest import Manifest
from keras_savekit.store.read_errors import unreadable

_SHOWN = 5  # problems of one file that a message names
_GIVE = "give the classes and functions it needs as custom_objects=, or register them"


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model that this package wrote: its manifest, and where its files are."""

    directory: Path
    manifest: Manifest
    architecture: Path

    @classmethod
    def checkpoint(cls, directory: Path, manifest: Manifest) -> StoredModel:
        """The checkpoint in a directory."""
        return cls(directory, manifest, directory / ARCHITECTURE_FILE)

    @property
    def file(self) -> Path:
        """The model's file."""
        return self.directory / self.manifest.model_file


def rebuild(stored: StoredModel, *, compile: bool, safe_mode: bool) -> Any:  # noqa: A002
    """Build the model and set everything that was saved; see `files.load_model`.

    Raises CheckpointError, ModelError or MismatchError.
    """
    config, compiled = _configurations(stored)
    if safe_mode:
        require_no_code(stored.file, config, compiled)
    tensors = read_tensors(stored.directory, stored.manifest)
    with build_errors(stored.file):
        model = deserialize_model(config, safe_mode=safe_mode)
        if not isinstance(model, keras.Model):
            raise TypeError(f"its architecture is that of {type(model).__name__}, not of a model")
        if compile and compiled:
            model.compile_from_config(compiled)
    roles: list[Role] = ["weight"]
    if any(role == "seed" for role, _ in tensors):
        roles.append("seed")
    if model.compiled and _has_slots(model, stored.manifest):
        roles.append("optimizer")
    require_same(model, stored.manifest, roles, str(stored.file))
    extras = Extras(computed_values(stored.manifest, tensors), _read_assets(stored))
    restore_variables(model, tensors, roles, extras, str(stored.file))
    _assign_metrics(model, stored.manifest, tensors)
    return model


def _assign_metrics(model: Any, manifest: Manifest, tensors: Tensors) -> None:
    """Set the metrics that exist. Keras creates the others with their first batch."""
    saved = {entry.name: entry for entry in manifest.tensors if entry.role == "metric"}
    for variable in variables_by_role(model)["metric"]:
        entry = saved.get(variable.path)
        if entry is not None and entry.shape == tuple(variable.shape):
            variable.assign(tensors["metric", entry.index])


def _configurations(stored: StoredModel) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Read the architecture, and the arguments of `compile`."""
    try:
        texts = format_of(stored.file).read_texts(stored.file, stored.architecture)
        config, compiled = unwrap(json.loads(texts.model)), json.loads(texts.compile)
        inside = config.pop("compile_config", None)
        return config, inside if compiled is None else compiled
    except (OSError, LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise unreadable("its architecture cannot be read", str(stored.file), error) from error


def require_no_code(path: Path, config: Any, compiled: Any) -> None:
    """Raise ModelError, naming the layers, if loading would run code that is not Keras's.

    Keras does not ensure this: older versions run the lambdas of a `.h5` file in safe mode.
    """
    code = [*code_in(config, "the model"), *code_of_compile(compiled)]
    if code:
        held = ", ".join(dict.fromkeys(f"{what} in {place}" for place, what in code[:_SHOWN]))
        remedy = "if you trust the origin of the file, load it with safe_mode=False"
        raise ModelError(f"contains Python code, which is not run: {held}", str(path), remedy)
    names = list(names_in([config, compiled], is_registered))
    if names:
        needed = ", ".join(dict.fromkeys(names[:_SHOWN]))
        what = f"Keras cannot build this model: it needs {needed}, which is not registered"
        raise ModelError(what, str(path), _GIVE)


def is_registered(name: str) -> bool:
    """Whether the user registered a class or function by this name."""
    return keras.saving.get_registered_object(name) is not None


def _read_assets(stored: StoredModel) -> dict[str, bytes]:
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


@contextmanager
def build_errors(path: Path) -> Iterator[None]:
    """Translate what Keras raises when it builds objects from a configuration."""
    try:
        yield
    except SavekitError:
        raise
    except MemoryError as error:
        raise CheckpointError("needs more memory than there is", str(path)) from error
    except Exception as error:
        text = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        if "unsafe" in str(error) or "lambda" in str(error).lower():
            remedy = "if you trust the origin of the file, load it with safe_mode=False"
            what = f"contains Python code, which is not run: {text}"
            raise ModelError(what, str(path), remedy) from error
        raise ModelError(f"Keras cannot build this model: {text}", str(path), _GIVE) from error
