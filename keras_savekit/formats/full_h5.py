"""Write a whole model into one `.h5` file that stock Keras reads.

The layout follows `keras/src/legacy/saving/legacy_h5_format.py`, with three differences
that `docs/formats.md` explains:

- `model_config` is in Keras 3's serialization. The stock reader accepts it, and it
  describes models that the legacy serialization cannot.
- The optimizer's variables are in a group with a name of this package. From the stock
  group, the stock reader restores them wrongly and returns a model that cannot train.
- Equal names are made unique, and bfloat16 is widened, since HDF5 or the stock reader does
  not support them. Readers go by position, not by name.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from keras_savekit.base.roles import Role
from keras_savekit.base.tensors import Array, Blueprint, Snapshot, as_array
from keras_savekit.formats.config_digest import wrap
from keras_savekit.formats.directio.writer import FileWriter
from keras_savekit.formats.hdf5 import access, fill
from keras_savekit.formats.hdf5.fill import WrittenFile
from keras_savekit.formats.hdf5.template import Attribute, Dataset, Layout, Template
from keras_savekit.formats.model_format import ModelFormat, ModelTexts, Name

OPTIMIZER_GROUP = "savekit_optimizer"
COMPILE_ATTRIBUTE = "savekit_compile_config"
_PADDED_TO = 256  # bytes; a learning rate has 3 to 22 digits
WIDENED = {"bfloat16": "float32"}
_BUILT_BY_FROM_CONFIG = {
    ("keras", "Sequential"),
    ("keras", "Functional"),
    ("keras.src.models.functional", "Functional"),
}


class FullH5(ModelFormat):
    """The format of a whole model in one `.h5` file."""

    name: ClassVar[Name] = "h5"
    stock_loses: ClassVar[tuple[Role, ...]] = ("asset", "computed")

    def layout(self, blueprint: Blueprint) -> Layout:
        """Return the layout of the file, without the `attributes` of a snapshot."""
        keras = {"keras_version": blueprint.versions["keras"].encode(), "backend": b"tensorflow"}
        groups: dict[str, dict[str, Any]] = {
            "": {**keras, "model_config": _architecture(blueprint)},
            "model_weights": {**keras, "layer_names": [layer.name for layer in blueprint.layers]},
        }
        datasets: list[Dataset] = []
        sections = [(layer.name, layer.weights) for layer in blueprint.layers]
        sections.append(("top_level_model_weights", blueprint.top_level))
        for name, positions in sections:
            path = f"model_weights/{name}"
            groups[path], found = _section(path, positions, blueprint)
            datasets += found
        optimizer = blueprint.positions("optimizer")
        if optimizer:
            groups[OPTIMIZER_GROUP], found = _section(OPTIMIZER_GROUP, optimizer, blueprint)
            datasets += found
        return Layout(groups, tuple(datasets))

    def attributes(self, snapshot: Snapshot) -> Mapping[str, Attribute]:
        """Return how the model is compiled, padded so that the length rarely changes."""
        blueprint = snapshot.blueprint
        if blueprint.training_config is None:
            return {}
        config: dict[str, Any] = copy.deepcopy(dict(blueprint.training_config))
        if blueprint.learning_rate is not None:
            # Callbacks change the learning rate. The configuration has its value at the start.
            rate = as_array(snapshot.tensors[blueprint.learning_rate])
            config["optimizer_config"]["config"]["learning_rate"] = float(rate)
        return {
            "training_config": pad(json.dumps(config).encode(), _PADDED_TO),
            COMPILE_ATTRIBUTE: json.dumps(blueprint.compile_config).encode(),
        }

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
        """Read the attributes of the file."""
        with access.open_for_reading(path) as file:
            names = ("model_config", "training_config", COMPILE_ATTRIBUTE)
            return ModelTexts(*(file.attrs.get(name, "null") for name in names))


def _section(
    group: str, positions: Iterable[int], blueprint: Blueprint
) -> tuple[dict[str, list[str]], list[Dataset]]:
    """Return a group's `weight_names` and one dataset per weight, in the order of reading."""
    positions = tuple(positions)
    variables = [blueprint.variables[position] for position in positions]
    names = unique_names(variable.name for variable in variables)
    datasets = [
        Dataset(f"{group}/{name}", position, WIDENED.get(variable.dtype))
        for name, position, variable in zip(names, positions, variables, strict=True)
    ]
    return {"weight_names": names}, datasets


def unique_names(names: Iterable[str]) -> list[str]:
    """Return the names with a number added to each repeated one.

    If another name is also a group of a name, the slashes of the latter become underscores.

    >>> unique_names(["dense/kernel", "dense/kernel", "dense"])
    ['dense/kernel', 'dense/kernel_1', 'dense_1']
    >>> unique_names(["dense", "dense/kernel"])
    ['dense', 'dense_kernel']
    """
    leaves: set[str] = set()
    groups: set[str] = set()
    result = []
    for name in names:
        base = name.strip("/") or "variable"
        if leaves & _parents(base):
            base = base.replace("/", "_")
        candidate, number = base, 0
        while candidate in leaves or candidate in groups:
            number += 1
            candidate = f"{base}_{number}"
        leaves.add(candidate)
        groups |= _parents(candidate)
        result.append(candidate)
    return result


def _parents(path: str) -> set[str]:
    parts = path.split("/")
    return {"/".join(parts[:end]) for end in range(1, len(parts))}


def _architecture(blueprint: Blueprint) -> bytes:
    """Return the architecture in a form from which the stock `.h5` reader builds all of it.

    The reader only calls `from_config` of the outermost class, which leaves a subclassed
    model without weights. `wrap` makes it call `deserialize` instead.
    """
    config = json.loads(blueprint.model_config)
    config.pop("compile_config", None)  # is in `training_config`
    if (config.get("module"), config.get("class_name")) not in _BUILT_BY_FROM_CONFIG:
        config = wrap(config)
    return json.dumps(config).encode()


def pad(text: bytes, multiple: int) -> bytes:
    """Add spaces to a JSON text, so that texts of similar lengths get the same length."""
    return text + b" " * (-len(text) % multiple)
