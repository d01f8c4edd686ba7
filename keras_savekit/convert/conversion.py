"""`to_keras`: convert a TensorFlow model to a Keras model with one layer."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras
import tensorflow as tf

from keras_savekit.convert import nesting
from keras_savekit.convert.captures import Capture, find_captures
from keras_savekit.convert.layer import GraphLayer, encode_program
from keras_savekit.convert.ops import require_gradients
from keras_savekit.convert.program import build_program
from keras_savekit.convert.recipe import make_recipe
from keras_savekit.convert.sources import trace
from keras_savekit.convert.tracing import SourceOptions, TracedSource, require_ranks
from keras_savekit.convert.values import read_values
from keras_savekit.errors import ConversionError


def to_keras(  # noqa: PLR0913 - the options of a source are independent
    source: Any,
    *,
    inputs: Any = None,
    outputs: Any = None,
    name: str | None = None,
    trainable: bool = True,
    call: str = "__call__",
    embed: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    constants: Literal["keep", "weights"] = "keep",
) -> Any:
    """Convert a TensorFlow model to a `keras.Model`, whose weights Keras trains and saves.

    The model contains a copy of the source's variables and of its computation. The
    source does not change, and the model does not need it. Outputs and gradients
    are those of the source. A file of the model contains all that it needs. Graphs
    are code: to load a file in another process, import this package and pass
    `safe_mode=False`.

    source: a `tf.Module` or another object with a function; a `tf.function`, a
        concrete function; the directory of a SavedModel (TF 2, TF 1, Keras 2); a
        frozen graph, `.pb` or `GraphDef`.
    inputs: for each input a `tf.TensorSpec`, `keras.Input`, shape with its batch
        axis, or example batch, in the dictionary, tuple or dataclass that the
        source takes. For a frozen graph, names or a dictionary by name. Optional if
        the source specifies its inputs.
    outputs: names, to select some of several outputs. For a frozen graph, names of
        nodes. A dictionary by name gives a shape that the source does not specify,
        or None.
    name: the name of the model and its layer.
    trainable: False freezes all weights. True keeps what each variable had.
    call: the function of the object, or the signature of the SavedModel.
    embed: False keeps the graph out of files. `source` is then a function that
        returns the source and is registered with `register_keras_serializable`.
    checkpoint: a `tf.train.Checkpoint`, or a checkpoint of TF 1, with the values of
        the weights.
    constants: "weights" turns the floating-point constants of a frozen graph that
        have at least one axis into weights of the model.

    A function with a parameter `training` or `is_training` is traced in both modes.
    A resume does not restore the state of random numbers that the graph draws from
    TensorFlow's kernels.

    Raises ConversionError, which names the part that cannot be converted.
    """
    if constants not in ("keep", "weights"):
        what = f'must be "keep" or "weights", got {constants!r}'
        raise ConversionError(what, "constants=")
    options = SourceOptions(inputs, outputs, call, constants)
    return convert(source, options, name, checkpoint, trainable=trainable, embed=embed).model


@dataclass(frozen=True, slots=True)
class Conversion:
    """A source, and the model made from it."""

    traced: TracedSource
    weights: Sequence[Capture]
    values: Sequence[Any]
    model: Any


def convert(
    source: Any,
    options: SourceOptions,
    name: str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    *,
    trainable: bool = True,
    embed: bool = True,
) -> Conversion:
    """Convert as `to_keras` does, and return the model with what it was made from."""
    if not tf.executing_eagerly():
        what = "the conversion needs eager execution, and TensorFlow does not execute eagerly here"
        remedy = "call it outside of graphs and of tf.function, with the behaviour of TensorFlow 2"
        raise ConversionError(what, "", remedy)
    found = trace(source if embed else _call_factory(source), options)
    weights = find_captures(found)
    values = read_values(weights, found.source, checkpoint)
    program = build_program(found, weights)
    if trainable and any(weight.variable.trainable for weight in weights):
        require_gradients(program.operations)
    require_ranks(found)
    name = _check_name(name) if name else _default_name(source)
    kept = (
        {"program": encode_program(program)}
        if embed
        else {"recipe": make_recipe(source, found, options)}
    )
    layer = GraphLayer(**kept, name=name, trainable=trainable)
    model = _build_model(layer, found, name)
    for weight, value in zip(layer.graph_weights, values, strict=True):
        weight.assign(value)
    return Conversion(found, weights, values, model)


def _call_factory(factory: Any) -> Any:
    if not callable(factory) or isinstance(factory, tf.Module):
        what = "embed=False takes a function that makes the source, not the source"
        remedy = "register one with keras.saving.register_keras_serializable()"
        raise ConversionError(what, type(factory).__name__, remedy)
    return factory()


def _build_model(layer: GraphLayer, found: TracedSource, name: str) -> Any:
    def entry(spec: Any, place: str) -> Any:
        key = place if place.isidentifier() and place != name else None  # Keras requires it
        return keras.Input(batch_shape=spec.shape, dtype=spec.dtype.name, name=key)

    inputs = keras.tree.map_structure(entry, found.inputs, nesting.leaf_paths(found.inputs))
    try:
        return keras.Model(inputs, layer(inputs), name=name)
    except ValueError as error:  # old versions of Keras support no nested outputs
        what = f"Keras {keras.__version__} cannot make a model with these outputs: {error}"
        raise ConversionError(what, name, "select some of them with outputs=") from error


def _check_name(name: str) -> str:
    if "/" in name:
        raise ConversionError(f"a Keras model cannot be named {name!r}", "name=", 'remove the "/"')
    return name


def _default_name(source: Any) -> str:
    own = getattr(source, "name", None) or getattr(source, "__name__", None)
    if isinstance(source, (str, os.PathLike)):
        own = Path(source).absolute().stem
    words = re.sub(r"\W+", "_", str(own or type(source).__name__)).strip("_")
    return words or "graph"
