"""The order in which Keras itself walks a model's state.

The one room that calls Keras's private saving walk (`saving_lib._save_state`),
with a store that records instead of writing. `tests/test_keras_private.py`
fails when a version of Keras changes what is relied upon here.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras.src.saving import saving_lib
from keras.src.saving.serialization_lib import ObjectSharingScope

# Older versions of Keras make a group for everything they visit, and want it when they load.
_MAKES_EMPTY_GROUPS = hasattr(saving_lib, "H5Entry")
_SAVE = "save_own_variables"


def serialized(model: Any) -> dict[str, Any]:
    """The model's configuration, in which an object that is used twice stays one object."""
    with ObjectSharingScope():
        config: dict[str, Any] = keras.saving.serialize_keras_object(model)
    return config


def deserialized(config: Mapping[str, Any], *, safe_mode: bool = True) -> Any:
    """The model that `serialized` read. Whatever Keras raises comes through."""
    with ObjectSharingScope():
        return keras.saving.deserialize_keras_object(config, safe_mode=safe_mode)


@dataclass(slots=True)
class Walk:
    """What a model would put into a `.weights.h5` file.

    groups: path to attributes, in the order Keras makes them.
    values: dataset path to variable, or to an array where a layer computes what it saves.
    """

    groups: dict[str, dict[str, str]] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


class _RecordingStore(saving_lib.H5IOStore):  # type: ignore[misc]
    """Keras asks for one of its own stores; this one opens no file."""

    def __init__(self) -> None:
        self.walk = Walk()
        self._group = ""

    def __bool__(self) -> bool:
        return True

    def make(self, path: str, metadata: Mapping[str, str] | None = None) -> _RecordingStore:
        self._group = group_of(path)
        if metadata or _MAKES_EMPTY_GROUPS:
            self.walk.groups[self._group] = dict(metadata or {})
        return self

    def __setitem__(self, key: str, value: Any) -> None:
        self.walk.groups.setdefault(self._group, {})
        self.walk.values[f"{self._group}/{key}"] = value

    def close(self) -> None:
        pass


def walk(model: Any) -> Walk:
    """Record Keras's walk over the model and, if it is compiled, its optimizer.

    No tensor is read, except where a layer's own `save_own_variables` reads some.
    """
    store = _RecordingStore()
    with _optimizers_give_references():
        saving_lib._save_state(model, store, None, "", set())
    return store.walk


def members(model: Any) -> list[tuple[str, Any]]:
    """Every object of the model, by path, in Keras's order; its optimizer left out.

    Each object once, under the first path that leads to it, where its values are stored.
    """
    found: list[tuple[str, Any]] = []
    seen = {id(getattr(model, "optimizer", None))}
    visit = saving_lib._save_state

    def note(
        saveable: Any, weights_store: Any, assets_store: Any, inner_path: str,
        visited_saveables: set[int],
    ) -> None:  # fmt: skip
        if visited_saveables is seen and id(saveable) not in seen:
            found.append((inner_path, saveable))
        visit(saveable, weights_store, assets_store, inner_path, visited_saveables)

    # Keras gives paths to its stores and objects to nobody. Its walk calls itself by this name.
    saving_lib._save_state = note
    try:
        saving_lib._save_state(model, None, None, "", seen)
    finally:
        saving_lib._save_state = visit
    return found


def stored(member: Any) -> tuple[dict[str, Any], bool]:
    """What an object stores of its own, by key, and whether that is all of it.

    Not all: the object raises, as a layer may that computes what it saves and has not yet
    computed it.
    """
    found: dict[str, Any] = {}
    if not hasattr(member, _SAVE):
        return found, True
    with suppress(Exception):
        with _optimizers_give_references():
            member.save_own_variables(found)
        return found, True
    return found, False


def group_of(path: str) -> str:
    """The group in a `.weights.h5` file that holds what the object at `path` stores."""
    return f"{path}/vars" if path else "vars"


@contextmanager
def _optimizers_give_references() -> Iterator[None]:
    """Optimizers left to themselves copy out every variable, which only names it here."""
    base = keras.optimizers.Optimizer
    own = vars(base).get(_SAVE)

    def save_own_variables(self: Any, store: Any) -> None:
        for index, variable in enumerate(self.variables):
            store[str(index)] = variable

    setattr(base, _SAVE, save_own_variables)
    try:
        yield
    finally:
        if own is None:
            delattr(base, _SAVE)
        else:
            setattr(base, _SAVE, own)


class _GivingStore(saving_lib.H5IOStore):  # type: ignore[misc]
    """Gives what lies in memory, by the paths of a walk."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._groups: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            group, _, key = name.rpartition("/")
            self._groups.setdefault(group, {})[key] = value

    def __bool__(self) -> bool:
        return True

    def get(self, path: str) -> dict[str, Any]:
        # Copies, as a file gives: a layer may change what it is given.
        return {key: np.array(value) for key, value in self._groups.get(group_of(path), {}).items()}

    def has_path(self, path: str) -> bool:
        return any(name.startswith(f"{path}/") for name in self._groups)

    def close(self) -> None:
        pass


def put(model: Any, values: Mapping[str, Any]) -> list[str]:
    """Let Keras load the model, not its optimizer, from arrays by the paths of its walk.

    Returns what Keras says of objects that could not be loaded; the others
    then hold the new values.
    """
    visited = {id(getattr(model, "optimizer", None))}
    messages: dict[int, tuple[Any, Exception]] = {}
    store = _GivingStore(values)
    with warnings.catch_warnings():
        # Keras comes back to an object that failed, and then warns of where it looked.
        warnings.filterwarnings("ignore", message="Skipping nested container")
        saving_lib._load_state(model, store, None, "", False, visited, set(), messages)
    return [f"{getattr(item, 'name', item)}: {error}" for item, error in messages.values()]


class _AssetStore(saving_lib.DiskIOStore):  # type: ignore[misc]
    """Directories by the paths of a walk, in a directory that is given."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def make(self, path: str) -> str:
        (self._root / path).mkdir(parents=True, exist_ok=True)
        return str(self._root / path)


def assets(model: Any) -> dict[str, bytes]:
    """What layers write into files of their own when they are saved, by path."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        saving_lib._save_state(model, None, _AssetStore(root), "", set())
        files = sorted(path for path in root.rglob("*") if path.is_file())
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def assets_if_any(model: Any) -> dict[str, bytes]:
    """The same; none if a layer raises, as one may that was given nothing to save yet."""
    with suppress(Exception):
        return assets(model)
    return {}


@contextmanager
def asset_directories(found: Mapping[str, bytes]) -> Iterator[Callable[[str], str]]:
    """Give each object, by its path, a directory with its assets; an empty one if it has none.

    Raises ValueError if the name of an asset leads out of its directory.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        for name, content in found.items():
            path = (root / name).resolve()
            if not path.is_relative_to(root):
                raise ValueError(f"the asset {name!r} leads out of its directory")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        yield _AssetStore(root).make
