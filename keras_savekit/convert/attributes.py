"""Walk an object's attributes, and name what they lead to as TensorFlow's checkpoints do.

This module knows no models: it only walks and returns what it found.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

import keras
import tensorflow as tf

from keras_savekit.convert.nesting import signature_of

_LEAVES = (str, bytes, int, float, complex, type, tf.Tensor, tf.TensorShape, tf.DType, ModuleType)
# Objects of their classes contain no variables of the user, and the walk would be long.
_FOREIGN = {*sys.stdlib_module_names, "numpy", "tensorflow", "keras", "tf_keras"}


def reach(source: Any, function: Any = None) -> dict[int, tuple[Any, list[str]]]:
    """Return every variable and resource in `source`, by identity, with all paths to it.

    The walk follows attributes of objects, items of lists and dictionaries, and of
    functions the bound object, the defaults, the closure and the globals they use.
    Paths are joined by "/", the shortest first.

    function: a function of `source`, walked with it.
    """
    found: dict[int, tuple[Any, list[str]]] = {}
    seen = {id(source)}
    level = [("", source), ("", function)]
    while level:
        deeper = []
        for path, holder in level:
            for name, value in children(holder).items():
                inner = f"{path}/{name}" if path else name
                if isinstance(value, tf.Variable) or hasattr(value, "resource_handle"):
                    paths = found.setdefault(id(value), (value, []))[1]
                    paths += [inner] if inner not in paths else []
                if id(value) not in seen and not isinstance(value, (*_LEAVES, tf.Variable)):
                    seen.add(id(value))
                    deeper.append((inner, value))
        level = deeper
    return found


def children(holder: Any) -> dict[str, Any]:
    """Return the direct children of `holder` by name, Keras variables as TensorFlow's."""
    return {
        name: value.value if isinstance(value, keras.Variable) else value
        for name, value in _children(holder)
    }


def _children(holder: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(holder, Mapping):
        yield from ((str(key), value) for key, value in holder.items())
    elif isinstance(holder, (list, tuple)):
        yield from ((str(index), value) for index, value in enumerate(holder))
    elif isinstance(holder, functools.partial):
        yield from _partial_children(holder)
    elif isinstance(holder, tf.types.experimental.PolymorphicFunction) or inspect.isroutine(holder):
        yield from _function_children(getattr(holder, "python_function", holder))
    elif _is_walked(holder):
        yield from sorted(_attributes(holder).items())
        if not isinstance(holder, tf.__internal__.tracking.Trackable) and callable(holder):
            yield from _function_children(type(holder).__call__)


def _attributes(holder: Any) -> dict[str, Any]:
    slots = [name for kind in type(holder).__mro__ for name in _slots(kind)]
    missing: Any = object()
    values = {name: getattr(holder, name, missing) for name in slots}
    present = {name: value for name, value in values.items() if value is not missing}
    return {**present, **getattr(holder, "__dict__", {})}


def _slots(kind: type) -> tuple[str, ...]:
    declared = vars(kind).get("__slots__", ())
    names = (declared,) if isinstance(declared, str) else tuple(declared)
    return tuple(name for name in names if not name.startswith("__"))


def _is_walked(holder: Any) -> bool:
    """Whether the walk enters an object: users' objects, and TensorFlow's that track variables."""
    if isinstance(holder, (tf.Module, tf.__internal__.tracking.Trackable)):
        return hasattr(holder, "__dict__")
    if holder is None or isinstance(holder, _LEAVES):
        return False
    home = type(holder).__module__.partition(".")[0]
    return dataclasses.is_dataclass(holder) or home not in _FOREIGN


def _partial_children(partial: functools.partial[Any]) -> Iterator[tuple[str, Any]]:
    yield from _children(partial.func)
    signature = signature_of(partial.func)
    yield from signature.bind_partial(*partial.args, **partial.keywords).arguments.items()


def _function_children(function: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    bound = getattr(function, "__self__", None)
    if bound is not None and not inspect.ismodule(bound):
        yield from _children(bound)
    try:
        used = inspect.getclosurevars(function)
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # not written in Python
        return
    defaults = {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.default is not parameter.empty
    }
    yield from sorted({**used.globals, **used.nonlocals, **defaults}.items())
