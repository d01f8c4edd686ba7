"""A live model becomes a snapshot: references, no copies.

TensorFlow's variables are copy-on-write: a tensor read from one shares its
memory, and a later update writes elsewhere. One concrete function reads all of
them, which costs about ten microseconds a variable whatever its size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import tensorflow as tf

from keras_savekit.formats.snapshot import Array, Snapshot, Variable
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

    def __call__(
        self, moment: Moment, state: Mapping[str, Any], arrays: Mapping[str, Array]
    ) -> Snapshot:
        """The model's state now. Later training does not change it.

        arrays: what callbacks remember besides the model, by name.
        """
        tensors = (*self._read_all(), *self._live.compute(), *arrays.values())
        blueprint = self._live.blueprint
        if arrays:
            remembered = [
                Variable("callback", index, name, array.shape, array.dtype.name)
                for index, (name, array) in enumerate(arrays.items())
            ]
            blueprint = replace(blueprint, variables=(*blueprint.variables, *remembered))
        return Snapshot(blueprint, tensors, moment, state)
