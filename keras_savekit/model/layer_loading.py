"""Let layers do their own part of loading, as Keras does.

Assigning the variables of a layer is not all of loading it. `Normalization` computes its
mean and variance from them, lookup layers make tables of their vocabulary, and a user's
layer may do anything in `load_own_variables` or `load_assets`. This module calls these
methods with the restored values, in Keras's order: an object's variables, its assets, then
the objects inside it. `assign` decides which tensor belongs to which variable, and assigns
again after the layers have loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_savekit.base.tensors import Array
from keras_savekit.model.live_variables import variables_by_role
from keras_savekit.model.saving_walk import (
    asset_directories,
    collect_available_assets,
    group_path,
    list_members,
    read_own_values,
)
from keras_savekit.model.traced import discard_traces

_LOAD = "load_own_variables"
# Keras's own methods that only assign variables, unless the layer is quantized.
_ONLY_ASSIGN = {
    getattr(layer, _LOAD)
    for layer in (
        keras.layers.Layer,
        keras.layers.Dense,
        keras.layers.EinsumDense,
        keras.layers.Embedding,
        keras.layers.Conv1D,
    )
}


@dataclass(frozen=True, slots=True)
class Extras:
    """What layers saved besides their variables.

    computed: arrays by their paths in Keras's walk.
    assets: files by their paths. If there are none, no layer loads its own.
    """

    computed: Mapping[str, Array]
    assets: Mapping[str, bytes]


def loads_itself(member: Any) -> bool:
    """Whether loading an object is more than assigning its variables."""
    load = getattr(type(member), _LOAD, None)
    if load is None:
        return False
    return load not in _ONLY_ASSIGN or getattr(member, "quantization_mode", None) is not None


def any_loads_itself(model: Any) -> bool:
    """Whether any layer of the model does, nested ones included. Fast: without Keras's walk."""
    return any(loads_itself(layer) for layer in model._flatten_layers())


def load_layers(model: Any, values: Mapping[int, Array], extras: Extras) -> list[str]:
    """Let layers load themselves; return the names and the errors of those that refuse.

    values: of variables, by the `id` of each. Other variables have their value already.
    """
    with asset_directories(extras.assets) as directory:

        def load(path: str, member: Any) -> str | None:
            try:
                if loads_itself(member):
                    getattr(member, _LOAD)(_make_store(path, member, values, extras.computed))
                if extras.assets and hasattr(member, "load_assets"):
                    member.load_assets(directory(path))
            except Exception as error:  # noqa: BLE001 - a user's layer may raise anything
                return f"{getattr(member, 'name', member)}: {error}"
            return None

        return [
            refusal
            for path, member in list_members(model)
            if (refusal := load(path, member)) is not None
        ]


def _make_store(
    path: str, member: Any, values: Mapping[int, Array], computed: Mapping[str, Array]
) -> dict[str, Array]:
    """Make the store that the object's `save_own_variables` filled; copies, as from a file."""
    own, _ = read_own_values(member)
    # By identity: a variable with a value in `values` is not read.
    found = {key: np.array(values.get(id(value), value)) for key, value in own.items()}
    prefix = f"{group_path(path)}/"
    return found | {
        name.removeprefix(prefix): np.array(value)
        for name, value in computed.items()
        if name.startswith(prefix) and "/" not in name.removeprefix(prefix)
    }


@contextmanager
def rollback_on_error(model: Any) -> Iterator[None]:
    """Undo changes of variables and of layers' attributes if the block raises.

    If it succeeds, and layers may have new tables or tensors, functions are traced again.
    """
    live = [variable for found in variables_by_role(model).values() for variable in found]
    values = [(variable, variable.value.read_value()) for variable in live]
    layers = _LayerStates(model) if any_loads_itself(model) else None
    try:
        yield
    except BaseException:
        _assign(values)
        if layers is not None:
            layers.undo()
            _assign(values)
        raise
    if layers is not None:
        discard_traces(model)


def _assign(values: list[tuple[Any, Any]]) -> None:
    for variable, value in values:
        variable.assign(value)


class _LayerStates:
    """The states of layers that load themselves.

    Kept in two forms, as attributes and as what Keras would save: a layer may replace an
    attribute, or change its value in place.
    """

    def __init__(self, model: Any) -> None:
        self._assets = collect_available_assets(model)
        self._before = [
            (path, member, dict(vars(member)), _copy(*read_own_values(member)))
            for path, member in list_members(model)
            if loads_itself(member) or hasattr(member, "load_assets")
        ]

    def undo(self) -> None:
        """Restore the layers, after the variables have their previous values."""
        with asset_directories(self._assets) as directory:
            for path, member, attributes, store in self._before:
                # If a layer refuses even this, its attributes are restored all the same.
                with suppress(Exception):
                    if store is not None and loads_itself(member):
                        copies = {key: np.array(value) for key, value in store.items()}
                        getattr(member, _LOAD)(copies)
                with suppress(Exception):
                    if self._assets and hasattr(member, "load_assets"):
                        member.load_assets(directory(path))
                vars(member).clear()
                vars(member).update(attributes)


def _copy(own: Mapping[str, Any], complete: bool) -> dict[str, Any] | None:
    """Copy all values but Keras's variables, which are restored by assignment."""
    if not complete:
        return None
    return {
        key: value if isinstance(value, keras.Variable) else np.array(value)
        for key, value in own.items()
    }
