"""Define what a format of model files provides.

A new format is one class in a module of its own, an entry in `registry`, and its name in
`policy.plan.FORMATS`. All other code asks the format: how its files are named, laid out and
written, where HDF5 begins in them, how they describe the model, and what stock Keras does
not read from them.
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
from keras_savekit.formats.hdf5.fill import WrittenFile
from keras_savekit.formats.hdf5.template import Attribute, Layout, Template

Name = Literal["h5", "keras", "weights.h5"]
Save = Literal["model", "weights"]


class ModelTexts(NamedTuple):
    """What the files of a model say about it, as JSON texts; `null` if they say nothing.

    model: the architecture.
    training: what stock Keras compiles the model from. Some formats have it in `model`.
    compile: the arguments of `compile`, in a form that only this package reads.
    """

    model: str | bytes
    training: str | bytes = "null"
    compile: str | bytes = "null"


class ModelFormat(ABC):
    """One format of model files.

    name: its name in a policy.
    save: whether a file contains a whole model or only weights.
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
        """The end of the names of its files."""
        return f".{self.name}"

    @property
    def file(self) -> str:
        """The name of its file in a checkpoint."""
        return f"model{self.suffix}"

    # Writing.

    @abstractmethod
    def layout(self, blueprint: Blueprint) -> Layout:
        """Return the layout of the HDF5 part of its file, for each snapshot of this blueprint."""

    def attributes(self, snapshot: Snapshot) -> Mapping[str, Attribute]:
        """Return the attributes of the file that differ between snapshots."""
        return {}

    @abstractmethod
    def write(
        self,
        stream: FileWriter,
        blueprint: Blueprint,
        template: Template,
        values: Sequence[Array],
        created: float,
        base: WrittenFile | None = None,
    ) -> WrittenFile:
        """Write a new file.

        template: the HDF5 part.
        created: seconds since 1970.
        base: a previous file. Blocks that are equal in both are shared if the file system can.
        """

    # Reading.

    def hdf5_begins(self, path: Path) -> int:
        """Return the byte at which HDF5 begins. Raise CheckpointError if there is no HDF5."""
        return 0

    def require_harmless_container(self, path: Path) -> None:
        """Raise CheckpointError if the part of the file outside of HDF5 could do harm."""
        return

    def require_harmless(self, path: Path) -> None:
        """Raise CheckpointError if reading the file could do harm; see `untrusted`."""
        untrusted.require_harmless_h5(path)

    def extra_members(self, path: Path) -> Iterator[tuple[str, str, str]]:
        """Yield the parts outside of HDF5 that should not be there: kind, name, what is wrong."""
        return iter(())

    @abstractmethod
    def read_texts(self, path: Path, architecture: Path) -> ModelTexts:
        """Read what the file at `path` says about the model.

        architecture: the path of the file with the architecture, if the format has one.

        Raises OSError, LookupError, ValueError, TypeError or RuntimeError if it cannot be
        read.
        """

    def read_assets(self, path: Path) -> dict[str, bytes] | None:
        """Read the assets in the model file of a checkpoint; None if another file has them."""
        return None
