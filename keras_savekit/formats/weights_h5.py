"""Separate weights: `model.weights.h5`, laid out by the walk Keras itself uses.

`training.blueprint` records the walk; here it becomes a file. bfloat16 is stored
as Keras stores it: two opaque bytes and an attribute that says what they are.
"""

from __future__ import annotations

from keras_savekit.base.tensors import Blueprint
from keras_savekit.formats.hdf5.template import Dataset, Layout

BFLOAT16 = "bfloat16"


def layout(blueprint: Blueprint) -> Layout:
    """The `.weights.h5` file of any snapshot of this blueprint."""
    groups = {group.path: dict(group.attributes) for group in blueprint.groups}
    return Layout(
        groups, tuple(_dataset(slot.path, slot.position, blueprint) for slot in blueprint.slots)
    )


def _dataset(path: str, position: int, blueprint: Blueprint) -> Dataset:
    if blueprint.variables[position].dtype == BFLOAT16:
        return Dataset(path, position, "V2", {"dtype": BFLOAT16})
    return Dataset(path, position)
