"""Trace every kind of source: modules, functions, SavedModels, frozen graphs."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_savekit.convert import frozen, tf1
from keras_savekit.convert.attributes import reach
from keras_savekit.convert.ops import require_allowed
from keras_savekit.convert.tracing import (
    SourceOptions,
    TracedSource,
    trace_concrete,
    trace_function,
    trace_modes,
    tracing_errors,
)
from keras_savekit.errors import ConversionError

SIGNATURE = "serving_default"
_GRAPH = "saved_model.pb"


def trace(source: Any, options: SourceOptions) -> TracedSource:
    """Trace `source`. Raises ConversionError if it cannot become a Keras model."""
    if isinstance(source, keras.Layer):
        what = f"{source.name!r} is a Keras {'model' if _is_model(source) else 'layer'} already"
        remedy = "save it with sk.save_model; if it has TensorFlow variables that Keras does not"
        raise ConversionError(what, "", f"{remedy} track, convert a function that calls it")
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.suffix == ".pb" and path.name != _GRAPH:
            return _frozen(path, options)
        return _saved_model(path, options)
    if isinstance(source, tf.compat.v1.GraphDef):
        return _graph(source, "the GraphDef", options)
    if isinstance(source, tf.types.experimental.ConcreteFunction):
        return trace_concrete(source, source, options)
    if isinstance(source, tf.Module) or not callable(source):
        return _object(source, options)
    return trace_function(source, source, options)


def _is_model(source: Any) -> bool:
    return isinstance(source, keras.Model)


def _object(source: Any, options: SourceOptions) -> TracedSource:
    function = getattr(source, options.call, None)
    if not callable(function):
        known = sorted(name for name in dir(source) if _is_function_of(source, name))
        has = f"it has {', '.join(known)}" if known else "it has no function of its own"
        what = f"a {type(source).__name__} has no function {options.call!r}: {has}"
        raise ConversionError(what, "call=", "name the function to call")
    return trace_function(function, source, options)


def _is_function_of(source: Any, name: str) -> bool:
    kinds = (tf.types.experimental.PolymorphicFunction, tf.types.experimental.ConcreteFunction)
    return not name.startswith("_") and isinstance(getattr(source, name, None), kinds)


def _saved_model(path: Path, options: SourceOptions) -> TracedSource:
    directory = path.parent if path.name == _GRAPH else path
    if not (directory / _GRAPH).is_file():
        what = "is not the directory of a SavedModel" if path.exists() else "does not exist"
        raise ConversionError(what, str(path), "the name of a frozen graph ends in .pb")
    with tracing_errors(str(path)):
        loaded = _load(directory)
    signatures = getattr(loaded, "signatures", {})
    if callable(getattr(loaded, options.call, None)):
        function = getattr(loaded, options.call)
        return trace_function(function, loaded, options)
    name = SIGNATURE if options.call == "__call__" else options.call
    if name in signatures:
        return trace_concrete(signatures[name], loaded, options)
    known = [*signatures, *(name for name in dir(loaded) if _is_function_of(loaded, name))]
    remedy = f"it has {', '.join(known)}: name one with call=" if known else "it has none"
    raise ConversionError(f"no signature or function {name!r}", str(path), remedy)


def _load(directory: Path) -> Any:
    saved = frozen.read_saved_model((directory / _GRAPH).read_bytes(), str(directory))
    first = tf1.serving_graph(saved)
    if first is not None:
        tf1.modernize(first)
    for graph in saved.meta_graphs if first is None else [first]:
        require_allowed(frozen.list_operations(graph.graph_def), str(directory))
    if first is None:
        return tf.saved_model.load(str(directory))
    home = Path(tempfile.mkdtemp())
    for part in directory.iterdir():
        if part.name != _GRAPH:
            (home / part.name).symlink_to(part.absolute())
    (home / _GRAPH).write_bytes(type(saved)(meta_graphs=[first]).SerializeToString())
    loaded = tf.saved_model.load(str(home))
    weakref.finalize(loaded, shutil.rmtree, home, ignore_errors=True)  # its tables read files there
    return loaded


def _frozen(path: Path, options: SourceOptions) -> TracedSource:
    if not path.is_file():
        raise ConversionError("does not exist", str(path), "check the path")
    return _graph(frozen.read_graph(path), str(path), options)


def _graph(graph: Any, where: str, options: SourceOptions) -> TracedSource:
    require_allowed(frozen.list_operations(graph), where)
    with tracing_errors(where):
        function, inputs, mode, holder = frozen.as_function(graph, options, where)
        inference, training = trace_modes(function, inputs, None, mode)
    return TracedSource(inference, training, inputs, reach(holder), holder)
