"""Read many variables at once, by reference.

TensorFlow has an operation that returns any number of variables and runs on the
calling thread. It takes a quarter of the time of a function that reads them one by
one, and needs no tracing. It has no public name. Only this module uses it, and
`tests/test_keras_private.py` fails when a version changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context, execute

_READ = "_ReadVariablesOp"


def reader(variables: Sequence[Any]) -> Callable[[], list[Any]]:
    """Return a function that returns the current values of Keras variables.

    A save calls that function between two steps. A backend must guarantee:

    - The values are in the order of `variables`, and all belong to the same step.
    - The call copies nothing and does not wait for the device. A value is a
      reference: a later step does not change it.
    - `reader` does everything that is slow on the first call.
    """
    values = [variable.value for variable in variables]
    if any(isinstance(value, tf.distribute.DistributedValues) for value in values):
        return lambda: [value.read_value() for value in values]
    by_device: dict[str, list[int]] = {}
    for position, value in enumerate(values):
        by_device.setdefault(value.device, []).append(position)
    reads = [
        (positions, _reader_of_device([values[position] for position in positions]))
        for positions in by_device.values()
    ]

    def read() -> list[Any]:
        found: list[Any] = [None] * len(values)
        for positions, read_device in reads:
            for position, tensor in zip(positions, read_device(), strict=True):
                found[position] = tensor
        return found

    read()  # the first call is slow, and a save must not wait for it
    return read


def _reader_of_device(values: Sequence[Any]) -> Callable[[], list[Any]]:
    """Return a function that reads the variables of one device."""
    handles = [value.handle for value in values]
    dtypes = tuple(value.dtype.as_datatype_enum for value in values)
    attributes = ("N", len(handles), "dtypes", dtypes)

    def read() -> list[Any]:
        found: list[Any] = execute.quick_execute(
            _READ, len(handles), handles, attributes, context.context()
        )
        return found

    return read
