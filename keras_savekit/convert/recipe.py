"""Recipes: how registered code makes a program, for layers whose files contain no graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from keras_savekit.convert.captures import find_captures
from keras_savekit.convert.program import Program, build_program
from keras_savekit.convert.sources import trace
from keras_savekit.convert.tracing import SourceOptions, TracedSource
from keras_savekit.errors import ConversionError

_CONTAINERS = {"dict": dict, "list": list, "tuple": tuple}


def make_recipe(factory: Any, found: TracedSource, options: SourceOptions) -> dict[str, Any]:
    """Return the recipe for the source that `factory` makes, as plain values.

    Raises ConversionError if `factory` is not registered with Keras.
    """
    name = keras.saving.get_registered_name(factory)
    if keras.saving.get_registered_object(name) is not factory:
        raise ConversionError(
            "embed=False saves the registered name of the function, and this one is not registered",
            getattr(factory, "__qualname__", type(factory).__name__),
            "give a function registered with keras.saving.register_keras_serializable(),"
            " which takes no arguments and returns the source",
        )
    return {
        "factory": name,
        "inputs": _to_json(found.inputs),
        "outputs": options.outputs,
        "call": options.call,
        "constants": options.constants,
    }


def program_from(recipe: Mapping[str, Any]) -> Program:
    """Make the program of `recipe`. Raises ConversionError if its function is not registered."""
    factory = keras.saving.get_registered_object(recipe["factory"])
    if factory is None:
        raise ConversionError(
            f"the layer is made by {recipe['factory']!r}, which is not registered with Keras",
            "",
            "import the module that registers it before loading",
        )
    inputs = _from_json(recipe["inputs"])
    options = SourceOptions(inputs, recipe["outputs"], recipe["call"], recipe["constants"])
    found = trace(factory(), options)
    return build_program(found, find_captures(found))


def _to_json(layout: Any) -> Any:
    if isinstance(layout, tf.TensorSpec):
        return {"shape": list(layout.shape), "dtype": layout.dtype.name, "name": layout.name}
    for kind, container in _CONTAINERS.items():
        if isinstance(layout, container):
            pairs = layout.items() if kind == "dict" else enumerate(layout)
            return {kind: [[key, _to_json(value)] for key, value in pairs]}
    raise ConversionError(f"embed=False cannot save the input {layout!r}", "inputs=")


def _from_json(written: Any) -> Any:
    for kind, container in _CONTAINERS.items():
        if kind in written:
            pairs = [(key, _from_json(value)) for key, value in written[kind]]
            return dict(pairs) if kind == "dict" else container(value for _, value in pairs)
    return tf.TensorSpec(written["shape"], written["dtype"], written["name"])
