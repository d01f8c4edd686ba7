"""The order in which Keras itself walks a model's state.

The one room that calls Keras's private saving walk (`saving_lib._save_state`),
with a store that records instead of writing. `tests/test_keras_private.py`
fails when a version of Keras changes what is relied upon here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
from keras.src.saving import saving_lib

# Older versions of Keras make a group for everything they visit, and want it when they load.
_MAKES_EMPTY_GROUPS = hasattr(saving_lib, "H5Entry")
_SAVE = "save_own_variables"


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
    with _optimizers_give_references():
        saving_lib._save_state(model, store, None, "", set())
    return store.walk


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
