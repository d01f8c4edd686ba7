"""A live model becomes a snapshot: references, no copies.

TensorFlow's variables are copy-on-write: a tensor read from one shares its
memory, and a later update writes elsewhere. Reading costs a few microseconds a
variable, whatever its size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from keras_savekit.backend.variables import reader
from keras_savekit.base.moment import Moment
from keras_savekit.base.tensors import Array, Snapshot, Variable
from keras_savekit.model.structure import LiveModel


class Capture:
    """Takes snapshots of one model. Call it on the thread that trains."""

    def __init__(self, live: LiveModel) -> None:
        self._live = live
        self._read = reader(live.variables)

    def metrics(self) -> dict[int, Any]:
        """The metric variables as they are, by position: for `metrics=`."""
        variables = self._live.variables
        positions = self._live.blueprint.positions("metric")
        return {position: variables[position].value.read_value() for position in positions}

    def __call__(
        self,
        moment: Moment,
        state: Mapping[str, Any],
        arrays: Mapping[str, Array],
        metrics: Mapping[int, Any] | None = None,
    ) -> Snapshot:
        """The model's state now. Later training does not change it.

        arrays: what callbacks remember besides the model, by name.
        metrics: what to take in place of the metric variables.
        """
        read = self._read()
        for position, value in (metrics or {}).items():
            read[position] = value
        tensors = [*read, *self._live.compute(), *arrays.values()]
        blueprint = self._live.blueprint
        if arrays:
            remembered = [
                Variable("callback", index, name, array.shape, array.dtype.name)
                for index, (name, array) in enumerate(arrays.items())
            ]
            blueprint = replace(blueprint, variables=(*blueprint.variables, *remembered))
        return Snapshot(blueprint, tensors, moment, state)
