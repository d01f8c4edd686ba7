"""The variables of a live model by role, and their descriptions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras

from keras_savekit.base.roles import Role
from keras_savekit.base.tensors import Variable
from keras_savekit.errors import ModelError


def require_built(model: Any) -> None:
    """Raise ModelError unless the model has its weights, and so can be saved."""
    unbuilt = [
        layer.name
        for layer in model._flatten_layers()
        # In older versions of Keras, a layer without a `build` of its own is never built.
        if not layer.built and type(layer).build is not keras.layers.Layer.build
    ]
    # A model made of its inputs has called every layer that it will ever call.
    if model.built and (not unbuilt or getattr(model, "inputs", None)):
        return
    names = ", ".join(unbuilt[:3]) + (" ..." if len(unbuilt) > 3 else "")
    raise ModelError(
        f"the model {model.name!r} is not built: it has no weights yet",
        f"layer {names}" if names else "",
        "give it an Input, or call it once on a batch, before `fit`",
    )


def build_optimizer(model: Any) -> None:
    """Create the optimizer's variables, which Keras creates in the first step only."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and not optimizer.built:
        with model.distribute_strategy.scope():
            optimizer.build(model.trainable_variables)


def variables_by_role(model: Any) -> dict[Role, list[Any]]:
    """Every variable that training changes, once each."""
    weights = list(model.weights)
    known = {id(variable) for variable in weights}
    optimizer = getattr(model, "optimizer", None)
    return {
        "weight": weights,
        "seed": [
            *(variable for variable in model.variables if id(variable) not in known),
            *_recurrent_states(model),
        ],
        "optimizer": list(optimizer.variables) if optimizer is not None else [],
        "metric": list(model.metrics_variables),
    }


def _recurrent_states(model: Any) -> Iterator[Any]:
    """The states of stateful recurrent layers, which no list of Keras contains."""
    for layer in model._flatten_layers():
        if getattr(layer, "stateful", False) and isinstance(layer, keras.layers.RNN):
            yield from keras.tree.flatten(layer.states or ())


def describe_variables(model: Any) -> list[Variable]:
    """Describe every variable that a model has by now."""
    return describe_by_role(variables_by_role(model))


def describe_by_role(by_role: Mapping[Role, list[Any]]) -> list[Variable]:
    """Describe these live variables, in the order of their roles."""
    return [
        describe_variable(role, index, variable)
        for role, variables in by_role.items()
        for index, variable in enumerate(variables)
    ]


def describe_variable(role: Role, index: int, variable: Any) -> Variable:
    """Describe a live variable as a value."""
    dtype = keras.backend.standardize_dtype(variable.dtype)
    return Variable(role, index, variable.path, tuple(variable.shape), dtype)
