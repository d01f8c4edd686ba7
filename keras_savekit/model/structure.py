"""A live model's structure as a value: its variables, and where each format stores them.

Read once, when training begins. The live model is only read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_savekit._version import __version__
from keras_savekit.base.roles import Role
from keras_savekit.base.tensors import Blueprint, Group, LayerWeights, Slot, Variable
from keras_savekit.model.compile_settings import CompileSettings
from keras_savekit.model.live_variables import describe_by_role, variables_by_role
from keras_savekit.model.saving_walk import SavingWalk, collect_assets, record_walk


class LiveModel:
    """A built model's variables and its blueprint, position by position.

    variables: the live Keras variables, in the order of `blueprint.variables`. Values that
        layers compute when they are saved follow in the blueprint, and have no variable.
    """

    def __init__(self, model: Any, settings: CompileSettings | None = None) -> None:
        settings = settings or CompileSettings.of(model)
        by_role = variables_by_role(model)
        self.model = model
        self.variables = [variable for found in by_role.values() for variable in found]
        walk = record_walk(model)
        position_of = {id(variable): at for at, variable in enumerate(self.variables)}
        self.computed = tuple(
            path for path, value in walk.values.items() if id(value) not in position_of
        )
        self.blueprint = _blueprint(model, settings, by_role, walk, position_of)

    def compute(self) -> tuple[Any, ...]:
        """Compute what layers with a custom `save_own_variables` save at this moment."""
        if not self.computed:
            return ()
        values = record_walk(self.model).values
        return tuple(tf.constant(np.asarray(values[path])) for path in self.computed)


def _blueprint(
    model: Any,
    settings: CompileSettings,
    by_role: Mapping[Role, list[Any]],
    walk: SavingWalk,
    position_of: Mapping[int, int],
) -> Blueprint:
    variables = describe_by_role(by_role)
    positions = {path: position_of.get(id(value)) for path, value in walk.values.items()}
    for index, path in enumerate([path for path, at in positions.items() if at is None]):
        value = np.asarray(walk.values[path])
        positions[path] = len(variables)
        variables.append(Variable("computed", index, path, value.shape, value.dtype.name))

    def locate(weights: Iterable[Any]) -> tuple[int, ...]:
        return tuple(position_of[id(weight)] for weight in weights)

    return Blueprint(
        variables=tuple(variables),
        layers=tuple(
            LayerWeights(layer.name, locate(_weights_in_h5_order(layer))) for layer in model.layers
        ),
        top_level=locate(_top_level_weights(model)),
        groups=tuple(Group(path, attributes) for path, attributes in walk.groups.items()),
        slots=tuple(Slot(path, at) for path, at in positions.items() if at is not None),
        model_config=settings.model_config,
        training_config=settings.training_config,
        compile_config=settings.compile_config,
        learning_rate=_learning_rate(model, locate),
        versions={
            "keras_savekit": __version__,
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
        },
        assets=collect_assets(model),
    )


def _weights_in_h5_order(layer: Any) -> list[Any]:
    """A layer's weights in the order of the full `.h5` format: trainable first."""
    return [*layer.trainable_weights, *layer.non_trainable_weights]


def _top_level_weights(model: Any) -> list[Any]:
    own = [*model._trainable_variables, *model._non_trainable_variables]
    weights = {id(weight) for weight in model.weights}
    return [variable for variable in own if id(variable) in weights]


def _learning_rate(model: Any, locate: Callable[[Iterable[Any]], tuple[int, ...]]) -> int | None:
    """The position of the learning rate; None for a schedule or a wrapped optimizer."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not isinstance(optimizer.get_config().get("learning_rate"), float):
        return None
    rates = [variable for variable in optimizer.variables if variable.name == "learning_rate"]
    return locate(rates)[0] if rates else None
