"""Write weights into a `.weights.h5` file, in the order in which Keras's saving visits objects.

`model.structure` records that order. bfloat16 is stored as Keras stores it: two opaque bytes
and an attribute with the name of the dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from keras_savekit.base.roles import Role
from keras_savekit.base.tensors import Array, Blueprint
from keras_savekit.formats.directio.writer import FileWriter
from keras_savekit.formats.hdf5 import fill
from keras_savekit.formats.hdf5.fill import WrittenFile
from keras_savekit.formats.hdf5.template import Dataset, Layout, Template
from keras_savekit.formats.model_format import ModelFormat, ModelTexts, Name, Save
from keras_savekit.store.regular_file import content

ARCHITECTURE_FILE = "model.json"
BFLOAT16 = "bfloat16"
MAX_ARCHITECTURE = 2**31  # bytes; those of converted models contain graphs


class WeightsH5(ModelFormat):
    """The format of weights in a `.weights.h5` file, with the architecture in a second file."""

    name: ClassVar[Name] = "weights.h5"
    save: ClassVar[Save] = "weights"
    architecture_file: ClassVar[str] = ARCHITECTURE_FILE
    stock_loses: ClassVar[tuple[Role, ...]] = ("asset",)

    def layout(self, blueprint: Blueprint) -> Layout:
        """Return the groups that Keras writes, and a dataset for each variable."""
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
        base: WrittenFile | None = None,
    ) -> WrittenFile:
        """Write a new HDF5 file."""
        return fill.write(stream, template, values, base)

    def read_texts(self, path: Path, architecture: Path) -> ModelTexts:
        """Read the architecture from the second file."""
        return ModelTexts(content(architecture, MAX_ARCHITECTURE))


def _dataset(path: str, position: int, blueprint: Blueprint) -> Dataset:
    if blueprint.variables[position].dtype == BFLOAT16:
        return Dataset(path, position, "V2", {"dtype": BFLOAT16})
    return Dataset(path, position)
