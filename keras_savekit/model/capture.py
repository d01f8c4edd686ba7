"""Take a snapshot of a live model: references, no copies.

TensorFlow's variables are copy-on-write: a tensor read from one shares its
memory, and a later update writes elsewhere. Reading takes a few microseconds per
variable, of any size.
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
    """Takes snapshots of one model. Call it on the training thread."""

    def __init__(self, live: LiveModel) -> None:
        self._live = live
        self._read = reader(live.variables)

    def metrics(self) -> dict[int, Any]:
        """The current metric variables by position, for the argument `metrics`."""
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
        """Return the model's current state. Later training does not change it.

        arrays: what callbacks remember, by name.
        metrics: values that replace those of the metric variables.
        """
        tensors = self._read()
        for position, value in (metrics or {}).items():
            tensors[position] = value
        tensors = [*tensors, *self._live.compute(), *arrays.values()]
        blueprint = self._live.blueprint
        if arrays:
            remembered = [
                Variable("callback", index, name, array.shape, array.dtype.name)
                for index, (name, array) in enumerate(arrays.items())
            ]
            blueprint = replace(blueprint, variables=(*blueprint.variables, *remembered))
        return Snapshot(blueprint, tensors, moment, state)
