"""What an object reaches through its attributes, by path, as TensorFlow's checkpoints name it.

Knows nothing of models: it walks, and tells what it met.
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
# Objects of their classes hold no variables of a user's, but much else.
_FOREIGN = {*sys.stdlib_module_names, "numpy", "tensorflow", "keras", "tf_keras"}


def reach(source: Any, function: Any = None) -> dict[int, tuple[Any, list[str]]]:
    """Every variable and every resource in `source`, by identity, with all paths that lead there.

    Attributes of objects, items of lists and dictionaries, and of functions what
    they are bound to, have for defaults, close over and find in their globals.
    Paths are joined by "/", the shortest first.

    function: of `source`, walked with it.
    """
    found: dict[int, tuple[Any, list[str]]] = {}
    seen = {id(source)}
    level = [("", source), ("", function)]
    while level:
        deeper = []
        for path, holder in level:
            for name, value in parts(holder).items():
                inner = f"{path}/{name}" if path else name
                if isinstance(value, tf.Variable) or hasattr(value, "resource_handle"):
                    paths = found.setdefault(id(value), (value, []))[1]
                    paths += [inner] if inner not in paths else []
                if id(value) not in seen and not isinstance(value, (*_LEAVES, tf.Variable)):
                    seen.add(id(value))
                    deeper.append((inner, value))
        level = deeper
    return found


def parts(holder: Any) -> dict[str, Any]:
    """What `holder` leads to at once, by name; TensorFlow's variable in place of one of Keras."""
    return {
        name: value.value if isinstance(value, keras.Variable) else value
        for name, value in _parts(holder)
    }


def _parts(holder: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(holder, Mapping):
        yield from ((str(key), value) for key, value in holder.items())
    elif isinstance(holder, (list, tuple)):
        yield from ((str(index), value) for index, value in enumerate(holder))
    elif isinstance(holder, functools.partial):
        yield from _of_partial(holder)
    elif isinstance(holder, tf.types.experimental.PolymorphicFunction) or inspect.isroutine(holder):
        yield from _of_function(getattr(holder, "python_function", holder))
    elif _is_walked(holder):
        yield from sorted(_attributes(holder).items())
        if not isinstance(holder, tf.__internal__.tracking.Trackable) and callable(holder):
            yield from _of_function(type(holder).__call__)


def _attributes(holder: Any) -> dict[str, Any]:
    slots = [name for each in type(holder).__mro__ for name in _slots(each)]
    missing: Any = object()
    read = {name: getattr(holder, name, missing) for name in slots}
    held = {name: value for name, value in read.items() if value is not missing}
    return {**held, **getattr(holder, "__dict__", {})}


def _slots(kind: type) -> tuple[str, ...]:
    said = vars(kind).get("__slots__", ())
    names = (said,) if isinstance(said, str) else tuple(said)
    return tuple(name for name in names if not name.startswith("__"))


def _is_walked(holder: Any) -> bool:
    """Objects of users and of TensorFlow, which does not export all of its classes."""
    if isinstance(holder, (tf.Module, tf.__internal__.tracking.Trackable)):
        return hasattr(holder, "__dict__")
    if holder is None or isinstance(holder, _LEAVES):
        return False
    home = type(holder).__module__.partition(".")[0]
    return dataclasses.is_dataclass(holder) or home not in _FOREIGN


def _of_partial(partial: functools.partial[Any]) -> Iterator[tuple[str, Any]]:
    yield from _parts(partial.func)
    signature = signature_of(partial.func)
    yield from signature.bind_partial(*partial.args, **partial.keywords).arguments.items()


def _of_function(function: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    bound = getattr(function, "__self__", None)
    if bound is not None and not inspect.ismodule(bound):
        yield from _parts(bound)
    try:
        used = inspect.getclosurevars(function)
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # not written in Python
        return
    defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
    yield from sorted({**used.globals, **used.nonlocals, **defaults}.items())
