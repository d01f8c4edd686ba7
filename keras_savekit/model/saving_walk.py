"""Run Keras's own walk over a model's state, with stores that record or give values.

The only module that calls Keras's private saving walk (`saving_lib._save_state` and
`_load_state`). `tests/test_keras_private.py` fails when a version of Keras changes what this
module relies on.
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

# Older versions of Keras create a group for every object, and need it when they load.
_MAKES_EMPTY_GROUPS = hasattr(saving_lib, "H5Entry")
_SAVE = "save_own_variables"


def serialize_model(model: Any) -> dict[str, Any]:
    """Return the model's configuration, in which an object that is used twice stays one."""
    with ObjectSharingScope():
        config: dict[str, Any] = keras.saving.serialize_keras_object(model)
    return config


def deserialize_model(config: Mapping[str, Any], *, safe_mode: bool = True) -> Any:
    """Build the model that `serialize_model` described. Does not translate Keras's errors."""
    with ObjectSharingScope():
        return keras.saving.deserialize_keras_object(config, safe_mode=safe_mode)


@dataclass(slots=True)
class SavingWalk:
    """What a model would write into a `.weights.h5` file.

    groups: path to attributes, in the order in which Keras creates them.
    values: dataset path to variable, or to an array if a layer computes what it saves.
    """

    groups: dict[str, dict[str, str]] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


class _RecordingStore(saving_lib.H5IOStore):  # type: ignore[misc]
    """Records the walk and opens no file. Keras requires a subclass of its own store."""

    def __init__(self) -> None:
        self.walk = SavingWalk()
        self._group = ""

    def __bool__(self) -> bool:
        return True

    def make(self, path: str, metadata: Mapping[str, str] | None = None) -> _RecordingStore:
        self._group = group_path(path)
        if metadata or _MAKES_EMPTY_GROUPS:
            self.walk.groups[self._group] = dict(metadata or {})
        return self

    def __setitem__(self, key: str, value: Any) -> None:
        self.walk.groups.setdefault(self._group, {})
        self.walk.values[f"{self._group}/{key}"] = value

    def close(self) -> None:
        pass


def record_walk(model: Any) -> SavingWalk:
    """Record Keras's walk over the model and, if it is compiled, its optimizer.

    No tensor is read, unless a layer's own `save_own_variables` reads some.
    """
    store = _RecordingStore()
    with _optimizers_give_references():
        saving_lib._save_state(model, store, None, "", set())
    return store.walk


def list_members(model: Any) -> list[tuple[str, Any]]:
    """List every object of the model with its path, in Keras's order; without the optimizer.

    Each object occurs once, with the first path that leads to it: there its values are stored.
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

    # Keras gives stores the paths but not the objects. Its walk calls itself by this name.
    saving_lib._save_state = note
    try:
        saving_lib._save_state(model, None, None, "", seen)
    finally:
        saving_lib._save_state = visit
    return found


def read_own_values(member: Any) -> tuple[dict[str, Any], bool]:
    """Return what an object itself stores, by key, and whether that is complete.

    It is incomplete if the object raises. A layer that computes what it saves may do so
    before it has computed it.
    """
    found: dict[str, Any] = {}
    if not hasattr(member, _SAVE):
        return found, True
    with suppress(Exception):
        with _optimizers_give_references():
            member.save_own_variables(found)
        return found, True
    return found, False


def group_path(path: str) -> str:
    """The group in a `.weights.h5` file with the values of the object at `path`."""
    return f"{path}/vars" if path else "vars"


@contextmanager
def _optimizers_give_references() -> Iterator[None]:
    """Make optimizers store their variables instead of copies: the walk only needs the names."""
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
    """Gives arrays in memory, by the paths of a walk."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._groups: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            group, _, key = name.rpartition("/")
            self._groups.setdefault(group, {})[key] = value

    def __bool__(self) -> bool:
        return True

    def get(self, path: str) -> dict[str, Any]:
        # Copies, as from a file: a layer may change them.
        return {
            key: np.array(value) for key, value in self._groups.get(group_path(path), {}).items()
        }

    def has_path(self, path: str) -> bool:
        return any(name.startswith(f"{path}/") for name in self._groups)

    def close(self) -> None:
        pass


def load_by_walk(model: Any, values: Mapping[str, Any]) -> list[str]:
    """Let Keras load the model, without its optimizer, from arrays by the paths of its walk.

    Returns the names and the errors of objects that could not be loaded. The others have the
    new values.
    """
    visited = {id(getattr(model, "optimizer", None))}
    messages: dict[int, tuple[Any, Exception]] = {}
    store = _GivingStore(values)
    with warnings.catch_warnings():
        # Keras visits an object that failed again, and then warns about the places it visited.
        warnings.filterwarnings("ignore", message="Skipping nested container")
        saving_lib._load_state(model, store, None, "", False, visited, set(), messages)
    return [f"{getattr(item, 'name', item)}: {error}" for item, error in messages.values()]


class _AssetStore(saving_lib.DiskIOStore):  # type: ignore[misc]
    """Gives a directory for each path of a walk, inside of `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def make(self, path: str) -> str:
        (self._root / path).mkdir(parents=True, exist_ok=True)
        return str(self._root / path)


def collect_assets(model: Any) -> dict[str, bytes]:
    """Return the files that layers write when they are saved, by path."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        saving_lib._save_state(model, None, _AssetStore(root), "", set())
        files = sorted(path for path in root.rglob("*") if path.is_file())
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def collect_available_assets(model: Any) -> dict[str, bytes]:
    """Return the same, or none if a layer raises: it may have nothing to save yet."""
    with suppress(Exception):
        return collect_assets(model)
    return {}


@contextmanager
def asset_directories(found: Mapping[str, bytes]) -> Iterator[Callable[[str], str]]:
    """Yield a function from an object's path to a directory with its assets, which may be empty.

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
