"""Write a whole model into one `.keras` archive that stock Keras reads.

The archive is an uncompressed zip of `metadata.json`, `config.json` and `model.weights.h5`
(PKWARE's APPNOTE 6.3). It is written from its first byte to its last: the CRC of a member
is computed meanwhile and follows it in a data descriptor. The weights begin at a page.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, ClassVar

from keras_savekit.base.tensors import Array, Blueprint
from keras_savekit.errors import CheckpointError
from keras_savekit.formats import untrusted
from keras_savekit.formats.archive import ARCHIVE_ERRORS, content_offset
from keras_savekit.formats.directio.memory import PAGE
from keras_savekit.formats.directio.writer import FileWriter
from keras_savekit.formats.hdf5 import fill
from keras_savekit.formats.hdf5.fill import WrittenFile
from keras_savekit.formats.hdf5.template import Layout, Template
from keras_savekit.formats.model_format import ModelFormat, ModelTexts, Name
from keras_savekit.formats.weights_h5 import WeightsH5
from keras_savekit.store.read_errors import unreadable

WEIGHTS_MEMBER = "model.weights.h5"
CONFIG_MEMBER = "config.json"
ASSETS = "assets"
MEMBERS = ("metadata.json", CONFIG_MEMBER, WEIGHTS_MEMBER)
_DESCRIPTOR_FOLLOWS = 0x08
_PADDING = 0xD935  # the extra field with which zipalign pads


class KerasZip(ModelFormat):
    """The format of a whole model in a `.keras` archive."""

    name: ClassVar[Name] = "keras"
    config_member: ClassVar[str] = CONFIG_MEMBER
    weights_are_all: ClassVar[bool] = False

    def layout(self, blueprint: Blueprint) -> Layout:
        """Return the layout of the weights, which is that of a `.weights.h5` file."""
        return WeightsH5().layout(blueprint)

    def write(
        self,
        stream: FileWriter,
        blueprint: Blueprint,
        template: Template,
        values: Sequence[Array],
        created: float,
        base: WrittenFile | None = None,
    ) -> WrittenFile:
        """Write a new archive."""
        day = datetime.fromtimestamp(created, tz=timezone.utc)
        metadata = {
            "keras_version": blueprint.versions["keras"],
            "date_saved": day.strftime("%Y-%m-%d@%H:%M:%S"),
        }
        with zipfile.ZipFile(_Unseekable(stream), "w") as archive:
            archive.writestr("metadata.json", json.dumps(metadata))
            archive.writestr(CONFIG_MEMBER, blueprint.model_config)
            for name, content in blueprint.assets.items():
                archive.writestr(f"{ASSETS}/{name}", content)
            weights = _aligned(WEIGHTS_MEMBER, stream.size)
            with archive.open(weights, "w", force_zip64=True) as member:
                weights.extra = b""  # the central directory needs no padding
                begin = stream.size
                digests = fill.write_into(stream, member.write, template, values, base)
        return WrittenFile(stream.path, template, begin, stream.shared, stream.entry(), digests)

    def hdf5_begins(self, path: Path) -> int:
        """Return the byte at which the weights begin."""
        return locate_weights(path)

    def require_harmless_container(self, path: Path) -> None:
        """Check the members of the archive."""
        untrusted.require_harmless_zip(path)

    def require_harmless(self, path: Path) -> None:
        """Check the members of the archive, then the HDF5 files among them."""
        untrusted.require_harmless_zip(path)
        untrusted.require_harmless_weights(path)

    def extra_members(self, path: Path) -> Iterator[tuple[str, str, str]]:
        """Yield the members that Keras does not read, and those that occur more than once."""
        for member, count in members(path).items():
            if member not in MEMBERS and not member.startswith(f"{ASSETS}/"):
                yield "extra", member, "is not part of such an archive"
            if count > 1:
                yield "twice", member, f"is there {count} times"

    def read_texts(self, path: Path, architecture: Path) -> ModelTexts:
        """Read the architecture, which contains how to compile the model."""
        return ModelTexts(read_config(path))

    def read_assets(self, path: Path) -> dict[str, bytes]:
        """Read the assets in the archive."""
        return read_assets(path)


class _Unseekable(io.RawIOBase):
    """A stream that cannot seek, so that `zipfile` writes sizes and CRC behind each member."""

    def __init__(self, stream: FileWriter) -> None:
        super().__init__()
        self._stream = stream
        self._failed = False

    def write(self, data: Any) -> int:
        """Write all of `data`; return its length.

        Only the first error is raised: `zipfile` writes more while it closes, and a second
        error would hide the first.
        """
        if not self._failed:
            self._failed = True
            self._stream.write(memoryview(data))
            self._failed = False
        return len(data)


def _aligned(name: str, offset: int) -> zipfile.ZipInfo:
    """Return a member whose header begins at `offset` and ends at the end of a page."""
    member = zipfile.ZipInfo(name)
    member.flag_bits |= _DESCRIPTOR_FOLLOWS
    bare = len(member.FileHeader(zip64=True)) + 4
    gap = -(offset + bare) % PAGE
    member.extra = struct.pack("<HH", _PADDING, gap) + bytes(gap)
    return member


def members(path: Path) -> Counter[str]:
    """Return how often each name is in an archive. Raise ValueError or OSError if it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return Counter(archive.namelist())
    except ARCHIVE_ERRORS as error:
        raise ValueError(str(error)) from error


def read_config(path: Path) -> bytes:
    """Read the architecture from an archive. Raise OSError, KeyError or ValueError on failure."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = archive.getinfo(CONFIG_MEMBER).file_size
            if size > path.stat().st_size:
                raise ValueError(f"{CONFIG_MEMBER} claims {size} bytes")
            return archive.read(CONFIG_MEMBER)
    except ARCHIVE_ERRORS as error:
        raise ValueError(str(error)) from error


def read_assets(path: Path) -> dict[str, bytes]:
    """Read an archive's assets, by path. Raise CheckpointError if they cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                name.removeprefix(f"{ASSETS}/"): archive.read(name)
                for name in archive.namelist()
                if name.startswith(f"{ASSETS}/") and not name.endswith("/")
            }
    except (OSError, *ARCHIVE_ERRORS) as error:
        raise unreadable("its assets cannot be read", str(path), error) from error


def locate_weights(path: Path) -> int:
    """Return the byte at which the weights begin. Raise CheckpointError if there are none."""
    try:
        with zipfile.ZipFile(path) as archive:
            weights = archive.getinfo(WEIGHTS_MEMBER)
        if weights.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError("its weights are compressed", str(path))
        with path.open("rb") as file:
            return content_offset(file, weights)
    except (OSError, KeyError, ValueError, *ARCHIVE_ERRORS) as error:
        raise unreadable("is not an archive with weights", str(path), error) from error
