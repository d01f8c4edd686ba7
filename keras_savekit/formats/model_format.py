"""What a format of model files is.

A new format is one class in a file of its own, an entry in `registry`, and its name in
`policy.plan.FORMATS`. Everything else asks the format: what its files are called, how
they are laid out and written, where HDF5 begins in them, what they say of the model, and
what stock Keras does not read from them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from keras_savekit.base.roles import Role
from keras_savekit.base.tensors import Array, Blueprint, Snapshot
from keras_savekit.formats import untrusted
from keras_savekit.formats.directio.writer import FileWriter
from keras_savekit.formats.hdf5.fill import Written
from keras_savekit.formats.hdf5.template import Attribute, Layout, Template

Name = Literal["h5", "keras", "weights.h5"]
Save = Literal["model", "weights"]


class ModelTexts(NamedTuple):
    """What the files of a model say of it, as JSON texts; `null` where they say nothing.

    model: the architecture.
    training: what stock Keras compiles the model from; part of `model` in some formats.
    compile: what `compile` was given, in a form that only this package reads.
    """

    model: str | bytes
    training: str | bytes = "null"
    compile: str | bytes = "null"


class ModelFormat(ABC):
    """One format of model files.

    name: its word in a policy.
    save: whether it holds a whole model, or weights with the architecture beside them.
    architecture_file: the name of the file in a checkpoint that contains the architecture;
        empty if the model file itself contains it.
    config_member: the member of the model file that contains the architecture; empty if it
        is an HDF5 attribute, or in another file.
    stock_loses: what is saved, but not read by stock Keras from such a file.
    weights_are_all: whether stock Keras's `load_weights` reads all that loading the model
        reads, apart from the architecture.
    """

    name: ClassVar[Name]
    save: ClassVar[Save] = "model"
    stock_loses: ClassVar[tuple[Role, ...]] = ()
    architecture_file: ClassVar[str] = ""
    config_member: ClassVar[str] = ""
    weights_are_all: ClassVar[bool] = True

    @property
    def suffix(self) -> str:
        """How names of its files end."""
        return f".{self.name}"

    @property
    def file(self) -> str:
        """The name of its file in a checkpoint."""
        return f"model{self.suffix}"

    # Writing.

    @abstractmethod
    def layout(self, blueprint: Blueprint) -> Layout:
        """The HDF5 part of its file, for every snapshot of this blueprint."""

    def attributes(self, snapshot: Snapshot) -> Mapping[str, Attribute]:
        """Attributes of the file that differ from snapshot to snapshot."""
        return {}

    @abstractmethod
    def write(
        self,
        stream: FileWriter,
        blueprint: Blueprint,
        template: Template,
        values: Sequence[Array],
        created: float,
        base: Written | None = None,
    ) -> Written:
        """Write a new file.

        template: its HDF5 part.
        created: seconds since 1970.
        base: a file written before; what is equal in both is shared, where the disk can.
        """

    # Reading.

    def hdf5_begins(self, path: Path) -> int:
        """The byte of the file at which HDF5 begins. Raises CheckpointError if there is none."""
        return 0

    def require_harmless_container(self, path: Path) -> None:
        """Raise CheckpointError if what is around HDF5 in the file could do harm."""
        return

    def require_harmless(self, path: Path) -> None:
        """Raise CheckpointError if reading the file could do harm; see `untrusted`."""
        untrusted.require_harmless_h5(path)

    def extra_members(self, path: Path) -> Iterator[tuple[str, str, str]]:
        """What is in the file outside of HDF5 and should not be: kind, name, what is wrong."""
        return iter(())

    @abstractmethod
    def read_texts(self, path: Path, architecture: Path) -> ModelTexts:
        """What the file at `path` says of the model.

        architecture: the file beside it, if the architecture is there.

        Raises OSError, LookupError, ValueError, TypeError or RuntimeError if it cannot be
        read.
        """

    def read_assets(self, path: Path) -> dict[str, bytes] | None:
        """The assets of a checkpoint that its model file holds; None if they are elsewhere."""
        return None
