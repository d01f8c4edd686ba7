"""A live model becomes a snapshot: references, no copies.

TensorFlow's variables are copy-on-write: a tensor read from one shares its
memory, and a later update writes elsewhere. One concrete function reads all of
them, which costs about ten microseconds a variable whatever its size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from keras_savekit.formats.snapshot import Snapshot
from keras_savekit.policy.moment import Moment
from keras_savekit.training.blueprint import LiveModel


class Capture:
    """Takes snapshots of one model. Call it on the thread that trains."""

    def __init__(self, live: LiveModel) -> None:
        self._live = live
        variables = live.variables

        @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
        def read_all() -> list[Any]:
            return [variable.value.read_value() for variable in variables]

        self._read_all = tf.function(read_all).get_concrete_function()

    def __call__(self, moment: Moment, state: Mapping[str, Any]) -> Snapshot:
        """The model's state now. Later training does not change it."""
        tensors = (*self._read_all(), *self._live.compute())
        return Snapshot(self._live.blueprint, tensors, moment, state)
