"""The order in which Keras itself walks a model's state.

The one room that calls Keras's private saving walk (`saving_lib._save_state`),
with a store that records instead of writing. `tests/test_keras_private.py`
fails when a version of Keras changes what is relied upon here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
from keras.src.saving import saving_lib

# Older versions of Keras make a group for everything they visit, and want it when they load.
_MAKES_EMPTY_GROUPS = hasattr(saving_lib, "H5Entry")


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
        self._group = f"{path}/vars" if path else "vars"
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
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not _saves_as_usual(optimizer):
        saving_lib._save_state(model, store, None, "", set())
    else:
        # Left to itself it would copy out every variable only to name it.
        saving_lib._save_state(model, store, None, "", {id(optimizer)})
        store.make("optimizer", _metadata(optimizer))
        for index, variable in enumerate(optimizer.variables):
            store[str(index)] = variable
    return store.walk


def _saves_as_usual(optimizer: Any) -> bool:
    usual = keras.optimizers.Optimizer.save_own_variables
    return type(optimizer).save_own_variables is usual


def _metadata(optimizer: Any) -> dict[str, str] | None:
    """Newer versions of Keras note the name of what they visit."""
    takes_metadata = "metadata" in saving_lib.H5IOStore.make.__code__.co_varnames
    return {"name": optimizer.name} if takes_metadata else None
