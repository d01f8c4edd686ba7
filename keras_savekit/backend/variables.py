"""Reading many variables at once, by reference.

TensorFlow has an operation that returns any number of variables, run on the
calling thread: a quarter of what a function takes that reads them one by one, and
nothing to trace. It has no public name; this is the one room that reaches for it,
and `tests/test_keras_private.py` fails when a version changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context, execute

_READ = "_ReadVariablesOp"


def reader(variables: Sequence[Any]) -> Callable[[], list[Any]]:
    """A function that returns what Keras variables hold now, without copying it."""
    values = [variable.value for variable in variables]
    if any(isinstance(each, tf.distribute.DistributedValues) for each in values):
        return lambda: [value.read_value() for value in values]
    by_device: dict[str, list[int]] = {}
    for position, value in enumerate(values):
        by_device.setdefault(value.device, []).append(position)
    reads = [(at, _together([values[position] for position in at])) for at in by_device.values()]

    def read() -> list[Any]:
        found: list[Any] = [None] * len(values)
        for at, together in reads:
            for position, tensor in zip(at, together(), strict=True):
                found[position] = tensor
        return found

    read()  # the first time takes longer, which is not for a save to wait for
    return read


def _together(values: Sequence[Any]) -> Callable[[], list[Any]]:
    """Of one device."""
    handles = [value.handle for value in values]
    dtypes = tuple(value.dtype.as_datatype_enum for value in values)
    attributes = ("N", len(handles), "dtypes", dtypes)

    def read() -> list[Any]:
        found: list[Any] = execute.quick_execute(
            _READ, len(handles), handles, attributes, context.context()
        )
        return found

    return read
