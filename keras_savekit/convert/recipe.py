"""How to make a program again from code: what a layer keeps in place of the graph itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from keras_savekit.convert.captures import captured
from keras_savekit.convert.program import Program, program_of
from keras_savekit.convert.sources import traced
from keras_savekit.convert.tracing import Traced, Wanted
from keras_savekit.errors import ConversionError

_CONTAINERS = {"dict": dict, "list": list, "tuple": tuple}


def recipe_of(factory: Any, found: Traced, wanted: Wanted) -> dict[str, Any]:
    """The recipe for what `factory` makes, as plain values.

    Raises ConversionError if `factory` is not known to Keras by a name.
    """
    name = keras.saving.get_registered_name(factory)
    if keras.saving.get_registered_object(name) is not factory:
        raise ConversionError(
            "embed=False keeps the name of a function that makes the source, and this has none",
            getattr(factory, "__qualname__", type(factory).__name__),
            "give a function registered with keras.saving.register_keras_serializable(),"
            " which takes nothing and returns the source",
        )
    return {
        "factory": name,
        "inputs": _written(found.inputs),
        "outputs": wanted.outputs,
        "call": wanted.call,
        "constants": wanted.constants,
    }


def program_by(recipe: Mapping[str, Any]) -> Program:
    """The program that `recipe` leads to. Raises ConversionError if its function is unknown."""
    factory = keras.saving.get_registered_object(recipe["factory"])
    if factory is None:
        raise ConversionError(
            f"the layer is made by {recipe['factory']!r}, which Keras does not know",
            "",
            "import the module that registers it before loading",
        )
    inputs = _read(recipe["inputs"])
    wanted = Wanted(inputs, recipe["outputs"], recipe["call"], recipe["constants"])
    found = traced(factory(), wanted)
    return program_of(found, captured(found))


def _written(layout: Any) -> Any:
    if isinstance(layout, tf.TensorSpec):
        return {"shape": list(layout.shape), "dtype": layout.dtype.name, "name": layout.name}
    for kind, container in _CONTAINERS.items():
        if isinstance(layout, container):
            values = layout.items() if kind == "dict" else enumerate(layout)
            return {kind: [[key, _written(value)] for key, value in values]}
    raise ConversionError(f"embed=False cannot keep an input that is {layout!r}", "inputs=")


def _read(written: Any) -> Any:
    for kind, container in _CONTAINERS.items():
        if kind in written:
            pairs = [(key, _read(value)) for key, value in written[kind]]
            return dict(pairs) if kind == "dict" else container(value for _, value in pairs)
    return tf.TensorSpec(written["shape"], written["dtype"], written["name"])
