"""`to_keras`: a TensorFlow model becomes a Keras model of one layer."""

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
from keras_savekit.convert.captures import Captured, captured
from keras_savekit.convert.layer import GraphLayer, encoded
from keras_savekit.convert.ops import require_gradients
from keras_savekit.convert.program import program_of
from keras_savekit.convert.recipe import recipe_of
from keras_savekit.convert.sources import traced
from keras_savekit.convert.tracing import Traced, Wanted, require_ranks
from keras_savekit.convert.values import values_of
from keras_savekit.errors import ConversionError


def to_keras(  # noqa: PLR0913 - each says another thing about a source
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
    """A TensorFlow model as a `keras.Model`, whose weights Keras counts, trains and saves.

    The model holds a copy of the source's variables and of its computation: the
    source is not changed, nor needed any more. Outputs and gradients are those of
    the source. Files of the model stand alone; since graphs are code, loading one
    in another process takes `safe_mode=False`, and an import of this package.

    source: a `tf.Module` or another object with a function; a `tf.function`, a
        concrete function; the directory of a SavedModel (TF 2, TF 1, Keras 2); a
        frozen graph, `.pb` or `GraphDef`.
    inputs: for each input a `tf.TensorSpec`, `keras.Input`, shape with its batch
        axis, or example batch, in the dictionary, tuple or dataclass that the
        source takes. For a frozen graph, names or a dictionary by name. May be left
        out where the source says it.
    outputs: names, to take some of several; of a frozen graph, names of its nodes. A
        dictionary by name says a shape that the source does not tell, else None.
    name: of the model and its layer.
    trainable: False freezes all weights; else each is as its variable was.
    call: the function of the object, or the signature of the SavedModel.
    embed: False keeps the graph out of files. `source` is then a function, known to
        Keras by `register_keras_serializable`, that returns the source.
    checkpoint: a `tf.train.Checkpoint`, or one of TF 1, from which the weights come.
    constants: "weights" makes the floating-point constants of a frozen graph that
        have an axis weights of the model.

    A function with a parameter `training` or `is_training` is traced in both modes.
    Random numbers that the graph draws from TensorFlow's kernels go on where they
    are, not where a resumed training was.

    Raises ConversionError that names what cannot be converted.
    """
    if constants not in ("keep", "weights"):
        what = f'must be "keep" or "weights", got {constants!r}'
        raise ConversionError(what, "constants=")
    wanted = Wanted(inputs, outputs, call, constants)
    return convert(source, wanted, name, checkpoint, trainable=trainable, embed=embed).model


@dataclass(frozen=True, slots=True)
class Conversion:
    """A source and the model that it became."""

    traced: Traced
    weights: Sequence[Captured]
    values: Sequence[Any]
    model: Any


def convert(
    source: Any,
    wanted: Wanted,
    name: str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    *,
    trainable: bool = True,
    embed: bool = True,
) -> Conversion:
    """As `to_keras`, with what it went by."""
    if not tf.executing_eagerly():
        what = "a Keras model is made where TensorFlow executes eagerly, and here it does not"
        remedy = "call it outside of graphs and of tf.function, with the behaviour of TensorFlow 2"
        raise ConversionError(what, "", remedy)
    found = traced(source if embed else _made(source), wanted)
    weights = captured(found)
    values = values_of(weights, found.source, checkpoint)
    program = program_of(found, weights)
    if trainable and any(weight.variable.trainable for weight in weights):
        require_gradients(program.operations)
    require_ranks(found)
    name = _checked(name) if name else _name(source)
    kept = {"program": encoded(program)} if embed else {"recipe": recipe_of(source, found, wanted)}
    layer = GraphLayer(**kept, name=name, trainable=trainable)
    model = _model(layer, found, name)
    for weight, value in zip(layer.graph_weights, values, strict=True):
        weight.assign(value)
    return Conversion(found, weights, values, model)


def _made(factory: Any) -> Any:
    if not callable(factory) or isinstance(factory, tf.Module):
        what = "embed=False takes a function that makes the source, not the source"
        remedy = "register one with keras.saving.register_keras_serializable()"
        raise ConversionError(what, type(factory).__name__, remedy)
    return factory()


def _model(layer: GraphLayer, found: Traced, name: str) -> Any:
    def entry(spec: Any, place: str) -> Any:
        named = place if place.isidentifier() and place != name else None  # as Keras asks of keys
        return keras.Input(batch_shape=spec.shape, dtype=spec.dtype.name, name=named)

    inputs = keras.tree.map_structure(entry, found.inputs, nesting.places(found.inputs))
    try:
        return keras.Model(inputs, layer(inputs), name=name)
    except ValueError as error:  # older versions of Keras take no nested outputs
        what = f"Keras {keras.__version__} makes no model of such outputs: {error}"
        raise ConversionError(what, name, "take some of them with outputs=") from error


def _checked(name: str) -> str:
    if "/" in name:
        raise ConversionError(
            f"a Keras model cannot be named {name!r}", "name=", 'leave out the "/"'
        )
    return name


def _name(source: Any) -> str:
    own = getattr(source, "name", None) or getattr(source, "__name__", None)
    if isinstance(source, (str, os.PathLike)):
        own = Path(source).absolute().stem
    words = re.sub(r"\W+", "_", str(own or type(source).__name__)).strip("_")
    return words or "graph"
