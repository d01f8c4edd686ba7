"""Separate weights: `model.weights.h5`, laid out by the walk Keras itself uses.

`model.structure` records the walk; here it becomes a file. bfloat16 is stored
as Keras stores it: two opaque bytes and an attribute that says what they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from keras_savekit.base.roles import Role
from keras_savekit.base.tensors import Array, Blueprint
from keras_savekit.formats.directio.writer import FileWriter
from keras_savekit.formats.hdf5 import fill
from keras_savekit.formats.hdf5.fill import Written
from keras_savekit.formats.hdf5.template import Dataset, Layout, Template
from keras_savekit.formats.model_format import ModelFormat, ModelTexts, Name, Save
from keras_savekit.store.regular_file import content

ARCHITECTURE_FILE = "model.json"
BFLOAT16 = "bfloat16"
MAX_ARCHITECTURE = 2**31  # converted models hold their graphs there


class WeightsH5(ModelFormat):
    """The weights in a `.weights.h5` file; the architecture is beside it."""

    name: ClassVar[Name] = "weights.h5"
    save: ClassVar[Save] = "weights"
    architecture_file: ClassVar[str] = ARCHITECTURE_FILE
    stock_loses: ClassVar[tuple[Role, ...]] = ("asset",)

    def layout(self, blueprint: Blueprint) -> Layout:
        """The walk's groups, and a dataset for each variable in it."""
        groups = {group.path: dict(group.attributes) for group in blueprint.groups}
        return Layout(
            groups, tuple(_dataset(slot.path, slot.position, blueprint) for slot in blueprint.slots)
        )

    def write(
        self,
        stream: FileWriter,
        blueprint: Blueprint,
        template: Template,
        values: Sequence[Array],
        created: float,
        base: Written | None = None,
    ) -> Written:
        """Write a new HDF5 file."""
        return fill.write(stream, template, values, base)

    def read_texts(self, path: Path, architecture: Path) -> ModelTexts:
        """The architecture in the file beside it."""
        return ModelTexts(content(architecture, MAX_ARCHITECTURE))


def _dataset(path: str, position: int, blueprint: Blueprint) -> Dataset:
    if blueprint.variables[position].dtype == BFLOAT16:
        return Dataset(path, position, "V2", {"dtype": BFLOAT16})
    return Dataset(path, position)
