"""The state of a model at one moment, held by reference.

What does not change from save to save (the model's structure) is a `Blueprint`,
made once; a `Snapshot` adds the tensors. Neither knows Keras: `training` makes
them, the other modules here write them.
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

    role, index: its position among the model's variables of that role.
    name: its Keras path, not necessarily unique.
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
    """Where Keras's own walk puts one variable in a `.weights.h5` file."""

    path: str
    position: int


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """A layer's name and the positions of its weights, trainable first."""

    name: str
    weights: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What stays the same over all saves of one `fit`.

    Positions count into `variables`.

    layers, top_level: the model's layers and its own weights, in the order of
        the full `.h5` format.
    groups, slots: the walk of the `.weights.h5` format.
    model_config: the architecture, in Keras 3's serialization.
    training_config: for the stock `.h5` reader; None if not compiled.
    compile_config: everything `compile` was given; None if not compiled.
    learning_rate: position of the optimizer's learning rate, if it is a variable.
    assets: what layers keep in files of their own, such as vocabularies, by path.
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
        """Positions of the variables with one of these roles."""
        return tuple(i for i, variable in enumerate(self.variables) if variable.role in roles)


@dataclass(frozen=True, eq=False)  # no slots: the host buffer keeps a weak reference to it
class Snapshot:
    """A model's state at one moment.

    tensors: one for each variable of the blueprint, sharing the memory that the
        variable had at that moment. TensorFlow writes later updates elsewhere,
        and what is still referenced costs memory, so `staging` replaces each by a
        copy of the same bits, and a snapshot is dropped as soon as it is written.
    state: what resume needs besides tensors, as JSON values, arrays and small tensors.
    """

    blueprint: Blueprint
    tensors: list[Any]
    moment: Moment
    state: Mapping[str, Any]


def as_array(tensor: Any) -> Array:
    """The bytes of an eager tensor or array as an array, without a copy where that is possible.

    Scalars, tensors on other devices and dtypes that Python's buffer protocol
    lacks (bfloat16, float8) are copied.
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

    Other logical devices of the processor count as devices, which they only
    pretend to be: so the way of a device's tensors is tried without one.
    """
    return isinstance(tensor, np.ndarray) or tensor.device.endswith("CPU:0")
