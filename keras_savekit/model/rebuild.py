"""Build a model again from what this package wrote: everything that was saved, or nothing.

Whoever calls this has checked the files. No code from a file is run but with
`safe_mode=False`.
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
from keras_savekit.model.assign import Tensors, computed_of, read_tensors, require_same, set_all
from keras_savekit.model.layer_loading import Extras
from keras_savekit.model.saving_walk import deserialized
from keras_savekit.model.structure import variables_by_role
from keras_savekit.store.manifest import Manifest
from keras_savekit.store.read_errors import unreadable

_SHOWN = 5  # of what is wrong with one file
_GIVE = "give the classes and functions it needs as custom_objects=, or register them"


@dataclass(frozen=True, slots=True)
class Stored:
    """What this package wrote: its manifest, and where its files are."""

    directory: Path
    manifest: Manifest
    architecture: Path

    @classmethod
    def checkpoint(cls, directory: Path, manifest: Manifest) -> Stored:
        """The checkpoint in a directory."""
        return cls(directory, manifest, directory / ARCHITECTURE_FILE)

    @property
    def file(self) -> Path:
        """The model's file."""
        return self.directory / self.manifest.model_file


def rebuild(stored: Stored, *, compile: bool, safe_mode: bool) -> Any:  # noqa: A002
    """Build the model and set everything that was saved; see `files.load_model`.

    Raises CheckpointError, ModelError or MismatchError.
    """
    config, compiled = _configurations(stored)
    if safe_mode:
        require_no_code(stored.file, config, compiled)
    tensors = read_tensors(stored.directory, stored.manifest)
    with building(stored.file):
        model = deserialized(config, safe_mode=safe_mode)
        if compile and compiled:
            model.compile_from_config(compiled)
    roles: list[Role] = ["weight"]
    if any(role == "seed" for role, _ in tensors):
        roles.append("seed")
    if model.compiled and _has_slots(model, stored.manifest):
        roles.append("optimizer")
    require_same(model, stored.manifest, roles, str(stored.file))
    extras = Extras(computed_of(stored.manifest, tensors), _assets(stored))
    set_all(model, tensors, roles, extras, str(stored.file))
    _assign_metrics(model, stored.manifest, tensors)
    return model


def _assign_metrics(model: Any, manifest: Manifest, tensors: Tensors) -> None:
    """Those that there are; others Keras makes with their first batch, when it resets them all."""
    saved = {entry.name: entry for entry in manifest.tensors if entry.role == "metric"}
    for variable in variables_by_role(model)["metric"]:
        entry = saved.get(variable.path)
        if entry is not None and entry.shape == tuple(variable.shape):
            variable.assign(tensors["metric", entry.index])


def _configurations(stored: Stored) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The architecture, and what `compile` was given."""
    try:
        texts = format_of(stored.file).read_texts(stored.file, stored.architecture)
        config, compiled = unwrap(json.loads(texts.model)), json.loads(texts.compile)
        inside = config.pop("compile_config", None)
        return config, inside if compiled is None else compiled
    except (OSError, LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise unreadable("its architecture cannot be read", str(stored.file), error) from error


def require_no_code(path: Path, config: Any, compiled: Any) -> None:
    """Raise ModelError, naming the layers, if loading would run code that is not Keras's.

    Not left to Keras: older versions run the lambdas of a `.h5` file in safe mode too.
    """
    code = [*code_in(config, "the model"), *code_of_compile(compiled)]
    if code:
        held = ", ".join(dict.fromkeys(f"{what} in {place}" for place, what in code[:_SHOWN]))
        remedy = "if you trust whoever made the file, load it with safe_mode=False"
        raise ModelError(f"holds Python code, which is not run: {held}", str(path), remedy)
    names = list(names_in([config, compiled], is_registered))
    if names:
        needed = ", ".join(dict.fromkeys(names[:_SHOWN]))
        what = f"Keras cannot build this model: it needs {needed}, which nobody registered"
        raise ModelError(what, str(path), _GIVE)


def is_registered(name: str) -> bool:
    """Whether the user registered a class or function by this name."""
    return keras.saving.get_registered_object(name) is not None


def _assets(stored: Stored) -> dict[str, bytes]:
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
def building(path: Path) -> Iterator[None]:
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
