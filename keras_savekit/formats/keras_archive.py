"""The whole model in one `.keras` archive, as stock Keras writes and reads it.

An uncompressed zip of `metadata.json`, `config.json` and `model.weights.h5`,
by PKWARE's APPNOTE 6.3. The weights are written in place, as `h5_file` does,
and their CRC is taken on the way, so that nothing is written twice: it stands
in a data descriptor behind them. They begin at a multiple of 4096 bytes.
"""

from __future__ import annotations

import json
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import xxhash

from keras_savekit.errors import CheckpointError
from keras_savekit.formats import h5_file
from keras_savekit.formats.h5_file import ALIGNMENT, PIECE, Layout
from keras_savekit.formats.snapshot import Array, Blueprint
from keras_savekit.store.manifest import FileEntry

WEIGHTS_MEMBER = "model.weights.h5"
CONFIG_MEMBER = "config.json"
ASSETS = "assets"
_DESCRIPTOR_FOLLOWS = 0x08
# What `zipfile` and its decompressors raise over damage: the second is for encrypted members.
NO_ARCHIVE = (
    zipfile.BadZipFile,
    RuntimeError,
    NotImplementedError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
)
_PADDING = 0xD935  # the extra field that zipalign pads with


def write(
    path: Path, blueprint: Blueprint, layout: Layout, values: Sequence[Array], created: float
) -> FileEntry:
    """Write a new archive; return its size and digest.

    layout: of the weights.
    created: seconds since 1970.
    """
    with path.open("x+b") as file:
        archive = zipfile.ZipFile(file, "w")
        day = datetime.fromtimestamp(created, tz=timezone.utc)
        metadata = {
            "keras_version": blueprint.versions["keras"],
            "date_saved": day.strftime("%Y-%m-%d@%H:%M:%S"),
        }
        archive.writestr("metadata.json", json.dumps(metadata))
        archive.writestr(CONFIG_MEMBER, blueprint.model_config)
        for name, content in blueprint.assets.items():
            archive.writestr(f"{ASSETS}/{name}", content)
        weights = _begin_weights(file)
        file.flush()
        digest = _Digest(file.fileno())
        size = h5_file.write_at(file.fileno(), file.tell(), layout, values, digest.update)
        _end_weights(file, weights, size, digest.crc)
        archive.filelist.append(weights)
        archive.NameToInfo[weights.filename] = weights
        archive.start_dir = file.tell()
        archive.close()
        file.flush()
        return FileEntry(path.name, file.tell(), digest.of_file())


def read_config(path: Path) -> bytes:
    """The architecture in an archive. OSError, KeyError or ValueError if it cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = archive.getinfo(CONFIG_MEMBER).file_size
            if size > path.stat().st_size:
                raise ValueError(f"{CONFIG_MEMBER} claims {size} bytes")
            return archive.read(CONFIG_MEMBER)
    except NO_ARCHIVE as error:
        raise ValueError(str(error)) from error


def read_assets(path: Path) -> dict[str, bytes]:
    """What lies in an archive's assets, by path; CheckpointError if it cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                name.removeprefix(f"{ASSETS}/"): archive.read(name)
                for name in archive.namelist()
                if name.startswith(f"{ASSETS}/") and not name.endswith("/")
            }
    except (OSError, *NO_ARCHIVE) as error:
        raise CheckpointError(f"its assets cannot be read: {error}", str(path)) from error


def locate_weights(path: Path) -> int:
    """The byte at which the weights of an archive begin. CheckpointError if there are none."""
    try:
        with zipfile.ZipFile(path) as archive:
            weights = archive.getinfo(WEIGHTS_MEMBER)
        if weights.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError("its weights are not stored as they are", str(path))
        with path.open("rb") as file:
            return start_of(file, weights)
    except (OSError, KeyError, ValueError, *NO_ARCHIVE) as error:
        raise CheckpointError(f"is no archive with weights: {error}", str(path)) from error


def start_of(file: Any, member: zipfile.ZipInfo) -> int:
    """The byte of an open archive at which a stored member's content begins. Else BadZipFile."""
    file.seek(member.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile(f"{member.filename} has no header")
    name, extra = struct.unpack("<HH", header[26:30])
    return int(member.header_offset) + 30 + int(name) + int(extra)


class _Digest:
    """Of the archive so far and of the weights."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._file = xxhash.xxh3_128()
        self._end = 0
        self.crc = 0
        self._go_on(os.fstat(descriptor).st_size)

    def update(self, piece: Any) -> None:
        self.crc = zlib.crc32(piece, self.crc)
        self._file.update(piece)
        self._end += len(piece)

    def of_file(self) -> str:
        """The whole file's, which is complete by now."""
        self._go_on(os.fstat(self._descriptor).st_size)
        text: str = self._file.hexdigest()
        return text

    def _go_on(self, end: int) -> None:
        while self._end < end:
            piece = os.pread(self._descriptor, min(PIECE, end - self._end), self._end)
            self._file.update(piece)
            self._end += len(piece)


def _begin_weights(file: Any) -> zipfile.ZipInfo:
    """Write the weights' header, so long that what follows is aligned."""
    weights = zipfile.ZipInfo(WEIGHTS_MEMBER)
    weights.flag_bits |= _DESCRIPTOR_FOLLOWS
    weights.header_offset = file.tell()
    bare = len(weights.FileHeader(zip64=True)) + 4
    gap = -(weights.header_offset + bare) % ALIGNMENT
    weights.extra = struct.pack("<HH", _PADDING, gap) + bytes(gap)
    file.write(weights.FileHeader(zip64=True))
    weights.extra = b""  # the directory needs none
    return weights


def _end_weights(file: Any, weights: zipfile.ZipInfo, size: int, crc: int) -> None:
    weights.CRC, weights.file_size, weights.compress_size = crc, size, size
    file.seek(0, os.SEEK_END)
    file.write(struct.pack("<LLQQ", 0x08074B50, crc, size, size))
