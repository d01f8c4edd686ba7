"""Describe the state of a model at one moment, by references to its tensors.

A `Blueprint` contains the structure of the model, which is the same for all saves. A
`Snapshot` adds the tensors. Neither uses Keras: `model` makes them, `formats` writes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_savekit.base.moment import Moment
from keras_savekit.base.roles import Role

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable of a model.

    role, index: its position among the variables of this role.
    name: its Keras path, which may not be unique.
    """

    role: Role
    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Group:
    """A group of an HDF5 file that Keras itself would create, with its attributes."""

    path: str
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Slot:
    """The dataset of a `.weights.h5` file in which Keras stores one variable."""

    path: str
    position: int


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """The name of a layer and the positions of its weights, trainable ones first."""

    name: str
    weights: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What is the same for all saves of one `fit`.

    Positions are indices of `variables`.

    layers, top_level: the layers of the model and its own weights, in the order of the full
        `.h5` format.
    groups, slots: the groups and datasets of the `.weights.h5` format.
    model_config: the architecture, in Keras 3's serialization.
    training_config: for the stock `.h5` reader; None if not compiled.
    compile_config: all arguments of `compile`; None if not compiled.
    learning_rate: position of the optimizer's learning rate, if it is a variable.
    assets: path to content of the files that layers save, such as vocabularies.
    """

    variables: tuple[Variable, ...]
    layers: tuple[LayerWeights, ...]
    top_level: tuple[int, ...]
    groups: tuple[Group, ...]
    slots: tuple[Slot, ...]
    model_config: str
    training_config: Mapping[str, Any] | None
    compile_config: Mapping[str, Any] | None
    learning_rate: int | None
    versions: Mapping[str, str]
    assets: Mapping[str, bytes] = field(default_factory=dict)

    def positions(self, *roles: Role) -> tuple[int, ...]:
        """Return the positions of the variables that have one of these roles."""
        return tuple(i for i, variable in enumerate(self.variables) if variable.role in roles)


@dataclass(frozen=True, eq=False)  # no slots: the host buffer keeps a weak reference to it
class Snapshot:
    """A model's state at one moment.

    tensors: one for each variable of the blueprint, in the memory that the variable had at
        that moment. TensorFlow writes updates to new memory, so a reference keeps the old
        memory in use: `save.host_copy` replaces each tensor by a copy of the same bits, and
        a snapshot is dropped as soon as it is written.
    state: what a resume needs besides tensors: JSON values, arrays and small tensors.
    """

    blueprint: Blueprint
    tensors: list[Any]
    moment: Moment
    state: Mapping[str, Any]


def as_array(tensor: Any) -> Array:
    """Return an eager tensor or array as an array, without a copy if possible.

    Scalars, tensors on other devices and dtypes that Python's buffer protocol does not
    support (bfloat16, float8) are copied.
    """
    if isinstance(tensor, np.ndarray):
        return tensor
    if tensor.shape.rank == 0 or not in_host_memory(tensor):
        return np.asarray(tensor.numpy())
    try:
        return np.asarray(memoryview(tensor))
    except (TypeError, ValueError):
        return np.asarray(tensor.numpy())


def in_host_memory(tensor: Any) -> bool:
    """Whether an eager tensor or array is in memory that this process can read.

    Further logical devices of the CPU count as other devices, so that tests can copy from a
    device without having one.
    """
    return isinstance(tensor, np.ndarray) or tensor.device.endswith("CPU:0")
