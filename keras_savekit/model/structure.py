"""A live model's structure as a value: which variables it has, and where each format puts them.

Read once, when training begins. The live model is only read: configurations
are serialized anew, never handed over.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_savekit._version import __version__
from keras_savekit.base.roles import Role
from keras_savekit.base.tensors import Blueprint, Group, LayerWeights, Slot, Variable
from keras_savekit.errors import ModelError
from keras_savekit.model.saving_walk import Walk, assets, serialized, walk


@dataclass(frozen=True, slots=True)
class Configuration:
    """How to build and compile the model anew: three fields of a `Blueprint`.

    Reading it proves, before anything is trained, that the model can be saved.
    """

    model_config: str
    training_config: Mapping[str, Any] | None
    compile_config: Mapping[str, Any] | None

    @property
    def optimizer(self) -> Mapping[str, Any] | None:
        """The optimizer's settings, serialized; None if the model is not compiled."""
        return None if self.compile_config is None else self.compile_config["optimizer"]

    @classmethod
    def of(cls, model: Any) -> Configuration:
        """Of a built model. Raises ModelError if it is not built or cannot be serialized."""
        require_built(model)
        _require_known_numbers(model)
        compile_config = _compile_config(model)
        return cls(_model_config(model), _training_config(compile_config), compile_config)


class LiveModel:
    """A built model's variables and its blueprint, position by position.

    variables: the live Keras variables, as `blueprint.variables` describes
        them; what layers compute on saving comes after them and has none.
    """

    def __init__(self, model: Any, configuration: Configuration | None = None) -> None:
        configuration = configuration or Configuration.of(model)
        by_role = variables_by_role(model)
        self.model = model
        self.variables = [variable for found in by_role.values() for variable in found]
        walked = walk(model)
        position_of = {id(variable): at for at, variable in enumerate(self.variables)}
        self.computed = tuple(
            path for path, value in walked.values.items() if id(value) not in position_of
        )
        self.blueprint = _blueprint(model, configuration, by_role, walked, position_of)

    def compute(self) -> tuple[Any, ...]:
        """What layers with a `save_own_variables` of their own save right now."""
        if not self.computed:
            return ()
        values = walk(self.model).values
        return tuple(tf.constant(np.asarray(values[path])) for path in self.computed)


def require_built(model: Any) -> None:
    """Raise ModelError unless the model has its weights, and so can be saved."""
    unbuilt = [
        layer.name
        for layer in model._flatten_layers()
        # In older versions of Keras, layers that have nothing to build never are.
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


def _require_known_numbers(model: Any) -> None:
    """Raise ModelError for layers that Keras builds again with their weights in another order."""
    float8 = [
        layer.name
        for layer in model._flatten_layers()
        if "float8"
        in (
            getattr(layer, "quantization_mode", None),
            getattr(layer.dtype_policy, "quantization_mode", None),  # older versions of Keras
        )
    ]
    if float8:
        names = ", ".join(float8[:3]) + (" ..." if float8[3:] else "")
        raise ModelError(
            "Keras does not load models with layers quantized to float8 as they were saved",
            f"layer {names}",
            "train without layer.quantize('float8'), and quantize what was loaded; or save it"
            " yourself with model.save('NAME.keras'), which Keras loads but for the optimizer",
        )


def build_optimizer(model: Any) -> None:
    """Give the optimizer its slots, which Keras does in the first step only."""
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
    """What stateful recurrent layers carry from batch to batch, which Keras counts nowhere."""
    for layer in model._flatten_layers():
        if getattr(layer, "stateful", False) and isinstance(layer, keras.layers.RNN):
            yield from keras.tree.flatten(layer.states or ())


def _blueprint(
    model: Any,
    configuration: Configuration,
    by_role: Mapping[Role, list[Any]],
    walked: Walk,
    position_of: Mapping[int, int],
) -> Blueprint:
    variables = _described(by_role)
    positions = {path: position_of.get(id(value)) for path, value in walked.values.items()}
    for index, path in enumerate([path for path, at in positions.items() if at is None]):
        value = np.asarray(walked.values[path])
        positions[path] = len(variables)
        variables.append(Variable("computed", index, path, value.shape, value.dtype.name))

    def locate(weights: Iterable[Any]) -> tuple[int, ...]:
        return tuple(position_of[id(weight)] for weight in weights)

    return Blueprint(
        variables=tuple(variables),
        layers=tuple(LayerWeights(layer.name, locate(_legacy(layer))) for layer in model.layers),
        top_level=locate(_top_level(model)),
        groups=tuple(Group(path, attributes) for path, attributes in walked.groups.items()),
        slots=tuple(Slot(path, at) for path, at in positions.items() if at is not None),
        model_config=configuration.model_config,
        training_config=configuration.training_config,
        compile_config=configuration.compile_config,
        learning_rate=_learning_rate(model, locate),
        versions={
            "keras_savekit": __version__,
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
        },
        assets=assets(model),
    )


def described(model: Any) -> list[Variable]:
    """Every variable that a model has by now, as values."""
    return _described(variables_by_role(model))


def _described(by_role: Mapping[Role, list[Any]]) -> list[Variable]:
    return [
        describe(role, index, variable)
        for role, found in by_role.items()
        for index, variable in enumerate(found)
    ]


def describe(role: Role, index: int, variable: Any) -> Variable:
    """A live variable as a value."""
    dtype = keras.backend.standardize_dtype(variable.dtype)
    return Variable(role, index, variable.path, tuple(variable.shape), dtype)


def _legacy(layer: Any) -> list[Any]:
    """The order of the full `.h5` format: trainable first."""
    return [*layer.trainable_weights, *layer.non_trainable_weights]


def _top_level(model: Any) -> list[Any]:
    own = [*model._trainable_variables, *model._non_trainable_variables]
    weights = {id(weight) for weight in model.weights}
    return [variable for variable in own if id(variable) in weights]


def _model_config(model: Any) -> str:
    try:
        return json.dumps(serialized(model))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ModelError(
            f"the architecture of {model.name!r} cannot be serialized: {error}",
            "",
            "give each custom class a `get_config` that returns plain values, and register it "
            "with keras.saving.register_keras_serializable()",
        ) from error


def _compile_config(model: Any) -> dict[str, Any] | None:
    if not model.compiled:
        return None
    config = _by_registered_names(json.loads(json.dumps(model.get_compile_config())))
    return {
        **config,
        "optimizer": json.loads(json.dumps(keras.optimizers.serialize(model.optimizer))),
    }


def _by_registered_names(config: Any) -> Any:
    """Functions by the names they are found by; older versions of Keras write shorter ones."""
    if isinstance(config, list):
        return [_by_registered_names(item) for item in config]
    if not isinstance(config, dict):
        return config
    if config.get("class_name") != "function":
        return {key: _by_registered_names(value) for key, value in config.items()}
    known = keras.saving.get_custom_objects()
    names = [name for name, value in known.items() if _name(value) == config["config"]]
    return config if len(names) != 1 else {**config, "config": names[0]}


def _name(function: Any) -> str | None:
    return getattr(function, "__name__", None)


def _training_config(compile_config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The compile settings as the stock `.h5` reader wants them: no aliases."""
    if compile_config is None:
        return None
    return {
        "loss": _full_names(compile_config.get("loss"), keras.losses.get),
        "metrics": _full_names(compile_config.get("metrics"), _metric),
        "weighted_metrics": _full_names(compile_config.get("weighted_metrics"), _metric),
        "loss_weights": compile_config.get("loss_weights"),
        "optimizer_config": compile_config["optimizer"],
    }


def _metric(name: str) -> Any:
    # "accuracy" depends on the loss and the shapes; Keras resolves it when it compiles.
    return name if name in {"accuracy", "acc", "crossentropy", "ce"} else keras.metrics.get(name)


def _full_names(config: Any, get: Callable[[str], Any]) -> Any:
    """Replace every alias ("mse") by a name that the stock reader finds again."""
    if isinstance(config, str):
        found = get(config)
        return getattr(found, "__name__", None) or getattr(found, "name", config)
    if isinstance(config, list):
        return [_full_names(item, get) for item in config]
    if isinstance(config, dict) and config.get("class_name") == "function":
        return config["config"]  # the reader finds registered and given ones by their names
    if isinstance(config, dict) and "class_name" not in config:
        return {key: _full_names(value, get) for key, value in config.items()}
    return config


def _learning_rate(model: Any, locate: Callable[[Iterable[Any]], tuple[int, ...]]) -> int | None:
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not isinstance(optimizer.get_config().get("learning_rate"), float):
        return None  # a schedule, or an optimizer around another
    rates = [variable for variable in optimizer.variables if variable.name == "learning_rate"]
    return locate(rates)[0] if rates else None
