"""Read zip archives of unknown origin: the errors to expect, and where members begin."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from typing import Any

# What `zipfile` and its decompressors raise for damaged archives. RuntimeError: encrypted members.
ARCHIVE_ERRORS = (
    zipfile.BadZipFile,
    RuntimeError,
    NotImplementedError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
)


def content_offset(file: Any, member: zipfile.ZipInfo) -> int:
    """Return the byte of an open archive at which a stored member's content begins.

    Raises BadZipFile if the member has no header.
    """
    file.seek(member.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile(f"{member.filename} has no header")
    name, extra = struct.unpack("<HH", header[26:30])
    return int(member.header_offset) + 30 + int(name) + int(extra)
