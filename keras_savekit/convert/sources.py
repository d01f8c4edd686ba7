"""Each kind of source that TensorFlow knows, as traced functions."""

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
    Traced,
    Wanted,
    in_modes,
    of_concrete,
    of_function,
    translated,
)
from keras_savekit.errors import ConversionError

SIGNATURE = "serving_default"
_GRAPH = "saved_model.pb"


def traced(source: Any, wanted: Wanted) -> Traced:
    """Trace `source`. Raises ConversionError for what cannot be a Keras model."""
    if isinstance(source, keras.Layer):
        what = f"{source.name!r} is a Keras {'model' if _is_model(source) else 'layer'} already"
        remedy = (
            "save it with sk.save_model; if it holds variables of TensorFlow's own, which Keras"
        )
        raise ConversionError(what, "", f"{remedy} does not see, convert a function that calls it")
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.suffix == ".pb" and path.name != _GRAPH:
            return _frozen(path, wanted)
        return _saved_model(path, wanted)
    if isinstance(source, tf.compat.v1.GraphDef):
        return _graph(source, "the GraphDef", wanted)
    if isinstance(source, tf.types.experimental.ConcreteFunction):
        return of_concrete(source, source, wanted)
    if isinstance(source, tf.Module) or not callable(source):
        return _object(source, wanted)
    return of_function(source, source, wanted)


def _is_model(source: Any) -> bool:
    return isinstance(source, keras.Model)


def _object(source: Any, wanted: Wanted) -> Traced:
    function = getattr(source, wanted.call, None)
    if not callable(function):
        known = sorted(name for name in dir(source) if _is_function_of(source, name))
        has = f"it has {', '.join(known)}" if known else "it has no function of its own"
        what = f"a {type(source).__name__} has no function {wanted.call!r}: {has}"
        raise ConversionError(what, "call=", "name the function to call")
    return of_function(function, source, wanted)


def _is_function_of(source: Any, name: str) -> bool:
    kinds = (tf.types.experimental.PolymorphicFunction, tf.types.experimental.ConcreteFunction)
    return not name.startswith("_") and isinstance(getattr(source, name, None), kinds)


def _saved_model(path: Path, wanted: Wanted) -> Traced:
    directory = path.parent if path.name == _GRAPH else path
    if not (directory / _GRAPH).is_file():
        what = "is not the directory of a SavedModel" if path.exists() else "does not exist"
        raise ConversionError(what, str(path), "a frozen graph ends in .pb")
    with translated(str(path)):
        loaded = _loaded(directory)
    signatures = getattr(loaded, "signatures", {})
    if callable(getattr(loaded, wanted.call, None)):
        function = getattr(loaded, wanted.call)
        return of_function(function, loaded, wanted)
    name = SIGNATURE if wanted.call == "__call__" else wanted.call
    if name in signatures:
        return of_concrete(signatures[name], loaded, wanted)
    known = [*signatures, *(each for each in dir(loaded) if _is_function_of(loaded, each))]
    remedy = f"it has {', '.join(known)}: name one with call=" if known else "it has none"
    raise ConversionError(f"no signature or function {name!r}", str(path), remedy)


def _loaded(directory: Path) -> Any:
    saved = frozen.read_saved_model((directory / _GRAPH).read_bytes(), str(directory))
    first = tf1.serving(saved)
    if first is not None:
        tf1.modernize(first)
    for graph in saved.meta_graphs if first is None else [first]:
        require_allowed(frozen.operations(graph.graph_def), str(directory))
    if first is None:
        return tf.saved_model.load(str(directory))
    home = Path(tempfile.mkdtemp())
    for part in directory.iterdir():
        if part.name != _GRAPH:
            (home / part.name).symlink_to(part.absolute())
    (home / _GRAPH).write_bytes(type(saved)(meta_graphs=[first]).SerializeToString())
    loaded = tf.saved_model.load(str(home))
    weakref.finalize(loaded, shutil.rmtree, home, ignore_errors=True)  # its tables read there
    return loaded


def _frozen(path: Path, wanted: Wanted) -> Traced:
    if not path.is_file():
        raise ConversionError("does not exist", str(path), "check the path")
    return _graph(frozen.read(path), str(path), wanted)


def _graph(graph: Any, where: str, wanted: Wanted) -> Traced:
    require_allowed(frozen.operations(graph), where)
    with translated(where):
        function, inputs, mode, holder = frozen.as_function(graph, wanted, where)
        inference, training = in_modes(function, inputs, None, mode)
    return Traced(inference, training, inputs, reach(holder), holder)
