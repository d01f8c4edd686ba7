"""Reading many variables at once, by reference.

One function that returns them all, run on the calling thread: no other thread
must wake up for it, which on busy cores takes longer than the reading. How a
function is run TensorFlow lets nobody say in public; this is the one room that
reaches for it, and `tests/test_keras_private.py` fails when a version changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context

# TensorFlow optimizes a function in a time that grows with the square of what it reads.
_AT_ONCE = 500


def reader(variables: Sequence[Any]) -> Callable[[], list[Any]]:
    """A function that returns what Keras variables hold now, without copying it."""
    here = all(variable.value.device.endswith("CPU:0") for variable in variables)
    run = on_this_thread if here else nullcontext
    with run():
        starts = range(0, len(variables), _AT_ONCE)
        parts = [_function(variables[start : start + _AT_ONCE]) for start in starts]

    def read() -> list[Any]:
        with run():
            return [tensor for part in parts for tensor in part()]

    read()  # the first time TensorFlow optimizes it, which is not for a save to wait for
    return read


def on_this_thread() -> Any:
    """In here functions are made, and called, that run on the calling thread alone."""
    return context.function_executor_type("SINGLE_THREADED_EXECUTOR")


def _function(variables: Sequence[Any]) -> Any:
    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def read() -> list[Any]:
        return [variable.value.read_value() for variable in variables]

    return tf.function(read).get_concrete_function()
