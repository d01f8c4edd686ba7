"""What an object reaches through its attributes, by path, as TensorFlow's checkpoints name it.

Knows nothing of models: it walks, and tells what it met.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

_LEAVES = (str, bytes, int, float, complex, type, tf.Tensor, tf.TensorShape, tf.DType)


def reach(source: Any) -> dict[int, tuple[Any, list[str]]]:
    """Every variable and every resource in `source`, by identity, with all paths that lead there.

    Attributes of modules and dataclasses, items of lists and dictionaries, and of
    functions what they are bound to, close over and find in their globals.
    Paths are joined by "/", the shortest first.
    """
    found: dict[int, tuple[Any, list[str]]] = {}
    seen = {id(source)}
    level = [("", source)]
    while level:
        deeper = []
        for path, holder in level:
            for name, value in _parts(holder):
                inner = f"{path}/{name}" if path else name
                if isinstance(value, tf.Variable) or hasattr(value, "resource_handle"):
                    found.setdefault(id(value), (value, []))[1].append(inner)
                if id(value) not in seen and not isinstance(value, (*_LEAVES, tf.Variable)):
                    seen.add(id(value))
                    deeper.append((inner, value))
        level = deeper
    return found


def _parts(holder: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(holder, Mapping):
        yield from ((str(key), value) for key, value in holder.items())
    elif isinstance(holder, (list, tuple)):
        yield from ((str(index), value) for index, value in enumerate(holder))
    elif isinstance(holder, tf.types.experimental.PolymorphicFunction) or inspect.isroutine(holder):
        yield from _of_function(getattr(holder, "python_function", holder))
    elif isinstance(holder, tf.Module) or dataclasses.is_dataclass(holder) or _is_trackable(holder):
        yield from sorted(_attributes(holder).items())


def _attributes(holder: Any) -> dict[str, Any]:
    slots = getattr(holder, "__dataclass_fields__", ())
    return {**{name: getattr(holder, name, None) for name in slots}, **vars(holder)}


def _is_trackable(holder: Any) -> bool:
    """Objects of a loaded SavedModel are of classes that TensorFlow does not export."""
    return isinstance(holder, tf.__internal__.tracking.Trackable) and hasattr(holder, "__dict__")


def _of_function(function: Any) -> Iterator[tuple[str, Any]]:
    bound = getattr(function, "__self__", None)
    if bound is not None and not inspect.ismodule(bound):
        yield from _parts(bound)
    try:
        used = inspect.getclosurevars(function)
    except (TypeError, ValueError):  # not written in Python
        return
    yield from sorted({**used.globals, **used.nonlocals}.items())
