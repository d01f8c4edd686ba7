"""How to build and compile a model again, as values that every format can store.

The live model is only read: its configurations are serialized again, never handed over.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from keras_savekit.errors import ModelError
from keras_savekit.model.live_variables import require_built
from keras_savekit.model.saving_walk import serialize_model


@dataclass(frozen=True, slots=True)
class CompileSettings:
    """How to build and compile the model again: three fields of a `Blueprint`.

    Reading them proves, before anything is trained, that the model can be saved.
    """

    model_config: str
    training_config: Mapping[str, Any] | None
    compile_config: Mapping[str, Any] | None

    @property
    def optimizer(self) -> Mapping[str, Any] | None:
        """The optimizer's settings, serialized; None if the model is not compiled."""
        return None if self.compile_config is None else self.compile_config["optimizer"]

    @classmethod
    def of(cls, model: Any) -> CompileSettings:
        """Read them from a model. Raises ModelError if it is not built or cannot be serialized."""
        require_built(model)
        _require_no_float8(model)
        compile_config = _compile_config(model)
        return cls(_model_config(model), _training_config(compile_config), compile_config)


def _require_no_float8(model: Any) -> None:
    """Raise ModelError for float8 layers: Keras rebuilds them with reordered weights."""
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
            "Keras does not load layers quantized to float8 as they were saved",
            f"layer {names}",
            "train without layer.quantize('float8') and quantize the loaded model; or save it with"
            " model.save('NAME.keras'), which Keras loads without the optimizer",
        )


def _model_config(model: Any) -> str:
    try:
        return json.dumps(serialize_model(model))
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
    """Replace the names of functions by registered ones: older versions of Keras shorten them."""
    if isinstance(config, list):
        return [_by_registered_names(item) for item in config]
    if not isinstance(config, dict):
        return config
    if config.get("class_name") != "function":
        return {key: _by_registered_names(value) for key, value in config.items()}
    known = keras.saving.get_custom_objects()
    names = [name for name, value in known.items() if _name_of(value) == config["config"]]
    return config if len(names) != 1 else {**config, "config": names[0]}


def _name_of(function: Any) -> str | None:
    return getattr(function, "__name__", None)


def _training_config(compile_config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The compile settings in the form of the stock `.h5` reader: no aliases."""
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
        return config["config"]  # the reader finds registered functions and custom objects by name
    if isinstance(config, dict) and "class_name" not in config:
        return {key: _full_names(value, get) for key, value in config.items()}
    return config
