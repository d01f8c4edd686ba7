"""Read, write, seal and sign `manifest.json` and `verification.json`.

A manifest is written last into a checkpoint's directory and read before any other
file of it. The text ends with a seal, the digest of everything before it: a manifest
vouches for all other files, and no other file vouches for the manifest.

The seal detects accidents. The signature, a line before the seal, detects anyone who
changes a checkpoint and makes a new seal: it covers everything before it, and the
manifest covers the files by their SHA-256.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, overload

import xxhash
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json as pydantic_to_json

from keras_savekit.base.key import Key
from keras_savekit.errors import CheckpointError
from keras_savekit.store import json_values
from keras_savekit.store.json_values import MalformedError
from keras_savekit.store.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    VERIFICATION,
    Manifest,
    SignatureError,
    TensorEntry,
    UnhashedError,
    UnsignedError,
    Verification,
)
from keras_savekit.store.read_errors import DAMAGE, unreadable
from keras_savekit.store.regular_file import content

MAX_MANIFEST_BYTES = 32 * 2**20  # 75,000 tensors; the worst of that size takes 0.5 GB to read

T = TypeVar("T")

_MANIFEST = TypeAdapter(Manifest)
_VERIFICATION = TypeAdapter(Verification)
_SEAL = b',\n  "seal": "%s"\n}\n'
_SEAL_LENGTH = len(_SEAL % bytes(32))
_SIGNATURE_BEGIN, _SIGNATURE_END = b',\n  "signature": "', b'"'
_SIGNATURE_LENGTH = len(_SIGNATURE_BEGIN) + 64 + len(_SIGNATURE_END)
# Lines of their own. No text inside JSON can equal them: JSON writes a line's end as \\n.
_TENSORS, _TENSORS_END = b'\n  "tensors": [', b"\n  ]"
_NO_SHA256 = b',\n      "sha256": null'


def to_json(value: Manifest | Verification, key: Key | None = None) -> bytes:
    """Write `value` as sealed JSON, indented by two spaces, for people to read.

    key: to sign it with.

    Standard JSON: metrics that are not finite become the strings "NaN",
    "Infinity" and "-Infinity", and are read back as the numbers they were.
    """
    text = pydantic_to_json(value, indent=2, inf_nan_mode="strings", fallback=list)
    body = text.removesuffix(b"\n}").replace(_NO_SHA256, b"")
    if key is not None:
        body = sign(body, key)
    return body + _SEAL % _digest(body)


def read_manifest(directory: Path, key: Key | None = None) -> Manifest:
    """Read the manifest of the checkpoint in `directory`.

    key: the key that it must be signed with. SignatureError if it is not, or if it has no
        SHA-256 of a file.

    Raises CheckpointError if it is missing, too large, malformed, changed
    since it was written, or of a format this version does not know;
    UnverifiableError if the system cannot read it.
    """
    path = f"{directory}/{MANIFEST}"
    text = _content(path)
    manifest = manifest_from_json(text, path)
    if key is not None:
        _require_signed(text[:-_SEAL_LENGTH], manifest, key, path)
    return manifest


def read_outline(directory: Path) -> Manifest:
    """Read the same manifest, but leave its tensors on the disk until they are used.

    The cost does not grow with the model. The seal vouches for the part that is not
    parsed. Raises CheckpointError as `read_manifest` does.
    """
    path = f"{directory}/{MANIFEST}"
    text = _content(path)
    start, end = text.find(_TENSORS), text.rfind(_TENSORS_END)
    if 0 <= start < end and _is_sealed(text):
        outline = text[: start + len(_TENSORS)] + text[end:]
        try:
            manifest = _MANIFEST.validate_json(outline)
        except ValidationError:
            pass  # `manifest_from_json` reports it in full
        else:
            if manifest.format == FORMAT_VERSION:
                return replace(manifest, tensors=_TensorsOnDisk(path, text[-_SEAL_LENGTH:]))
    return manifest_from_json(text, path)


def manifest_from_json(text: bytes, where: str) -> Manifest:
    """The manifest that `to_json` wrote as `text`. Raises CheckpointError as `read_manifest`."""
    try:
        parsed = json_values.parse_json(text)
        version = json_values.format_version(parsed)
    except MalformedError as error:
        raise CheckpointError(str(error), where) from error
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"checkpoint format {version} is not known",
            where,
            "a newer keras_savekit wrote it, or the file is damaged",
        )
    return _unseal(_MANIFEST, parsed, text, where)


def read_verification(directory: Path) -> Verification | None:
    """Read the last verification of the checkpoint in `directory`, None if there is none.

    Raises CheckpointError if it cannot be read.
    """
    path = f"{directory}/{VERIFICATION}"
    try:
        text = _content(path)
    except _MissingError:
        return None
    try:
        parsed = json_values.parse_json(text)
    except MalformedError as error:
        raise CheckpointError(str(error), path) from error
    return _unseal(_VERIFICATION, parsed, text, path)


def sign(body: bytes, key: Key) -> bytes:
    """Append a signature to JSON that lacks its closing brace."""
    return body + _SIGNATURE_BEGIN + key.signature(body) + _SIGNATURE_END


def is_signed(body: bytes) -> bool:
    """Whether this text ends with a signature, made with any key."""
    line = body[-_SIGNATURE_LENGTH:]
    return line.startswith(_SIGNATURE_BEGIN) and line.endswith(_SIGNATURE_END)


def is_signed_with(body: bytes, key: Key) -> bool:
    """Whether this text ends with a signature made with `key`."""
    text, line = body[:-_SIGNATURE_LENGTH], body[-_SIGNATURE_LENGTH:]
    signature = line[len(_SIGNATURE_BEGIN) : -len(_SIGNATURE_END)]
    return is_signed(body) and key.verify(signature, text)


class _MissingError(CheckpointError):
    pass


class _TensorsOnDisk(Sequence[TensorEntry]):
    """The tensors of the manifest in a file that has this seal; read at each access."""

    __slots__ = ("_path", "_seal")

    def __init__(self, path: str, seal: bytes) -> None:
        self._path = path
        self._seal = seal

    @overload
    def __getitem__(self, index: int) -> TensorEntry: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[TensorEntry]: ...
    def __getitem__(self, index: int | slice) -> TensorEntry | Sequence[TensorEntry]:
        return self._read()[index]

    def __len__(self) -> int:
        return len(self._read())

    def __iter__(self) -> Iterator[TensorEntry]:
        return iter(self._read())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._read() == tuple(other)

    def __hash__(self) -> int:
        return hash(self._read())

    def __repr__(self) -> str:
        return repr(self._read())

    def _read(self) -> Sequence[TensorEntry]:
        text = _content(self._path)
        if not text.endswith(self._seal):
            raise CheckpointError("changed since it was looked at", self._path)
        return manifest_from_json(text, self._path).tensors


def _require_signed(body: bytes, manifest: Manifest, key: Key, path: str) -> None:
    if not is_signed(body):
        raise UnsignedError("is not signed", path)
    if not is_signed_with(body, key):
        what = "its signature is wrong: it was made with another key, or changed since"
        raise SignatureError(what, path)
    unhashed = [entry.name for entry in manifest.files if entry.sha256 is None]
    if unhashed:
        what = f"is signed without a SHA-256 of {unhashed[0]}, which may be any file"
        remedy = "an older version wrote it; it can only be read without a key"
        raise UnhashedError(what, path, remedy)


def _content(path: str) -> bytes:
    name = path.rpartition("/")[2]
    try:
        return content(path, MAX_MANIFEST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise _MissingError(f"{name} is missing", path) from None
    except OSError as error:
        if error.errno == errno.EFBIG:
            what = "larger than any manifest this package writes"
        elif error.errno in DAMAGE:
            what = f"{name} is not a plain file"  # a link, a directory, a pipe, a socket
        else:
            raise unreadable("cannot be read", path, error) from error
        raise CheckpointError(what, path) from error
    except MemoryError as error:
        raise unreadable("cannot be read", path, error) from error


def _unseal(adapter: TypeAdapter[T], parsed: object, text: bytes, where: str) -> T:
    try:
        value = json_values.validate(adapter, parsed)
    except MalformedError as error:
        raise CheckpointError(str(error), where) from error
    if not _is_sealed(text):
        raise CheckpointError("changed since it was written: its seal does not fit", where)
    return value


def _is_sealed(text: bytes) -> bool:
    return text[-_SEAL_LENGTH:] == _SEAL % _digest(memoryview(text)[:-_SEAL_LENGTH])


def _digest(body: bytes | memoryview) -> bytes:
    digest: str = xxhash.xxh3_128_hexdigest(body)
    return digest.encode("ascii")
