"""Layers do their own part of loading, as Keras lets them.

Assigning the variables of a layer is not all of loading it. `Normalization` computes its
mean and variance from them, lookup layers make tables of their vocabulary, and a user's
layer may do anything in `load_own_variables` or `load_assets`. Here these are called with
the values that were restored, in Keras's order: an object's variables, its assets, then
the objects inside it. Which variables belong to which tensors is the business of
`training.restore`, and so is the last word on their values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_savekit.base.tensors import Array
from keras_savekit.model.saving_walk import (
    asset_directories,
    assets_if_any,
    group_of,
    members,
    stored,
)
from keras_savekit.model.structure import variables_by_role
from keras_savekit.model.traced import forget_traces

_LOAD = "load_own_variables"
# Keras's own that assign variables and do no more, unless the layer is quantized.
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
    assets: files by their paths; without any, no layer is asked to load its own.
    """

    computed: Mapping[str, Array]
    assets: Mapping[str, bytes]


def loads_itself(member: Any) -> bool:
    """Whether an object's loading is more than the assignment of its variables."""
    load = getattr(type(member), _LOAD, None)
    if load is None:
        return False
    return load not in _ONLY_ASSIGN or getattr(member, "quantization_mode", None) is not None


def any_loads_itself(model: Any) -> bool:
    """Whether the model has such a layer, in whatever depth. Quick: Keras's walk is not done."""
    return any(loads_itself(layer) for layer in model._flatten_layers())


def load(model: Any, values: Mapping[int, Array], extras: Extras) -> list[str]:
    """Let layers load themselves; return what those say that refuse, with their names.

    values: of variables, by the `id` of each; others have the value that is theirs by now.
    """
    with asset_directories(extras.assets) as directory:

        def refusal(path: str, member: Any) -> str | None:
            try:
                if loads_itself(member):
                    getattr(member, _LOAD)(_store(path, member, values, extras.computed))
                if extras.assets and hasattr(member, "load_assets"):
                    member.load_assets(directory(path))
            except Exception as error:  # noqa: BLE001 - whatever a layer raises is its refusal
                return f"{getattr(member, 'name', member)}: {error}"
            return None

        return [words for each in members(model) if (words := refusal(*each)) is not None]


def _store(
    path: str, member: Any, values: Mapping[int, Array], computed: Mapping[str, Array]
) -> dict[str, Array]:
    """What the object's own `save_own_variables` would have given; copies, as from a file."""
    own, _ = stored(member)
    # By identity: of a variable in values nothing is read.
    found = {key: np.array(values.get(id(value), value)) for key, value in own.items()}
    prefix = f"{group_of(path)}/"
    return found | {
        name.removeprefix(prefix): np.array(value)
        for name, value in computed.items()
        if name.startswith(prefix) and "/" not in name.removeprefix(prefix)
    }


@contextmanager
def all_or_none(model: Any) -> Iterator[None]:
    """Restore variables, and what layers made of them, if what is done within fails.

    If it succeeds, functions that were traced with what layers had made before are traced anew.
    """
    live = [variable for found in variables_by_role(model).values() for variable in found]
    values = [(variable, variable.value.read_value()) for variable in live]
    layers = _Layers(model) if any_loads_itself(model) else None
    try:
        yield
    except BaseException:
        _assign(values)
        if layers is not None:
            layers.undo()
            _assign(values)
        raise
    if layers is not None:
        forget_traces(model)


def _assign(values: list[tuple[Any, Any]]) -> None:
    for variable, value in values:
        variable.assign(value)


class _Layers:
    """What layers with a part in their own loading have made so far.

    Twice: attributes as they are, and what Keras would save. A layer may replace the
    former, or change in place what they lead to.
    """

    def __init__(self, model: Any) -> None:
        self._assets = assets_if_any(model)
        self._before = [
            (path, member, dict(vars(member)), _copied(*stored(member)))
            for path, member in members(model)
            if loads_itself(member) or hasattr(member, "load_assets")
        ]

    def undo(self) -> None:
        """For a model whose variables have been assigned what they were."""
        with asset_directories(self._assets) as directory:
            for path, member, attributes, store in self._before:
                # A layer that refuses even this has its attributes.
                with suppress(Exception):
                    if store is not None and loads_itself(member):
                        getattr(member, _LOAD)({key: np.array(each) for key, each in store.items()})
                with suppress(Exception):
                    if self._assets and hasattr(member, "load_assets"):
                        member.load_assets(directory(path))
                vars(member).clear()
                vars(member).update(attributes)


def _copied(own: Mapping[str, Any], complete: bool) -> dict[str, Any] | None:
    """Copies of all but Keras's variables, which have their own way back."""
    if not complete:
        return None
    return {
        key: value if isinstance(value, keras.Variable) else np.array(value)
        for key, value in own.items()
    }
