"""What a checkpoint promises: its files, their digests, and why it exists.

A manifest is written last into a checkpoint's directory and read before
anything else there is. It knows no Keras and no TensorFlow. Checking its
promises is the business of `verify`.

The text ends with a seal, the digest of everything before it: a manifest
vouches for all other files, and nothing else could vouch for it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, overload

import xxhash
from pydantic import FailFast, GetPydanticSchema, TypeAdapter, ValidationError
from pydantic_core import from_json
from pydantic_core import to_json as pydantic_to_json

from keras_savekit.base.key import Key
from keras_savekit.base.moment import Count, Few, Moment
from keras_savekit.base.roles import Role
from keras_savekit.errors import CheckpointError
from keras_savekit.store import manifest_signature
from keras_savekit.store.read_errors import DAMAGE, unreadable
from keras_savekit.store.regular_file import as_text, content

MANIFEST = "manifest.json"
VERIFICATION = "verification.json"
PINNED = "PINNED"  # an empty file: a person said that this checkpoint stays
FORMAT_VERSION = 1
MAX_MANIFEST_BYTES = 32 * 2**20  # 75,000 tensors; the worst of that size takes 0.5 GB to read

T = TypeVar("T")

Depth = Literal["bytes", "structure", "load", "predict"]
DEPTHS: tuple[Depth, ...] = ("bytes", "structure", "load", "predict")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a checkpoint.

    size: in bytes.
    digest: xxh3_128 of its content, in hex. Tells of accidents; who wants to can forge it.
    sha256: of its content, in hex, which nobody can forge; None where nothing is signed.
    """

    name: str
    size: Count
    digest: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a snapshot and every place it is stored.

    role, index: position among the model's tensors of that role
        (`model.weights`, `optimizer.variables`, ...). A `computed` one is no
        variable but what a layer's own `save_own_variables` made of some, a
        `callback` one is what a callback remembers, and an `asset` one the bytes
        of a file of a layer's own, such as a vocabulary.
    name: the variable's Keras path; not necessarily unique.
    dtype: of the variable. A file may store a wider one (bfloat16 as float32).
    digest: xxh3_128, in hex, of the variable's bytes in C order, taken from memory.
    places: each `file:/path/of/dataset`.
    offsets: of each place, the byte of the file at which the tensor begins, where it lies
        there as it was in memory, else None. Not to be relied on: it lets a tensor be
        digested on the pass that reads the file, and HDF5 says whether that was it.
    """

    role: Role
    index: Count
    name: str
    shape: Annotated[tuple[Count, ...], FailFast()]
    dtype: str
    digest: str
    places: Annotated[tuple[str, ...], FailFast()]
    offsets: Annotated[tuple[Count | None, ...], FailFast()] = ()


def split_place(place: str) -> tuple[str, str]:
    """The file and the path in it of one of `TensorEntry.places`."""
    name, mark, path = place.partition(":/")  # a file's name may have a colon
    return (name, path) if mark else (place.partition(":")[0], place.partition(":")[2])


def _read_as_a_tuple(_: Any, schema_of: Callable[[Any], Any]) -> Any:
    return schema_of(Annotated[tuple[TensorEntry, ...], FailFast()])


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one checkpoint promises.

    created: seconds since 1970, for people; order is by step, never by time.
    model_file: the file stock Keras reads.
    architecture: digest of it, as `formats.architecture` takes it; empty in older ones.
    tensors: of a manifest that `read_outline` read, on the disk until they are asked for.
    """

    run: str
    plan: str
    save: Literal["model", "weights"]
    reasons: Annotated[tuple[str, ...], FailFast()]
    moment: Moment
    created: float
    model_file: str
    # The first wrong one is enough to say: a hostile file has millions.
    files: Annotated[tuple[FileEntry, ...], FailFast()]
    tensors: Annotated[Sequence[TensorEntry], GetPydanticSchema(_read_as_a_tuple)]
    versions: Annotated[Mapping[str, str], Few] = field(default_factory=dict)
    architecture: str = ""
    format: int = FORMAT_VERSION

    @property
    def bytes(self) -> int:
        """Size of all files, in bytes."""
        return sum(entry.size for entry in self.files)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a checkpoint, or in which it is not portable.

    kind: a short stable word: missing, extra, size, digest, unreadable, tensor, ...;
        of what is not portable: code, load, predict.
    where: file, tensor or dataset, relative to the checkpoint.
    what: a sentence.
    """

    kind: str
    where: str
    what: str

    def __post_init__(self) -> None:
        # Names on a disk may be no text, which JSON cannot hold.
        object.__setattr__(self, "where", as_text(self.where))
        object.__setattr__(self, "what", as_text(self.what))

    def __str__(self) -> str:
        return f"{self.what} [{self.where}]"


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome of a check: no findings means the checkpoint is good.

    depth: the deepest depth that the checkpoint passed; with findings, the depth at
        which they were found.
    findings: evidence of damage, which only the depths `bytes` and `structure` give.
    note: why the requested depth was not reached, if it was not; what still loads a
        checkpoint that is not portable.
    done: False if that was for a lack of time or memory, or since the system failed: the
        checkpoint is then as unverified as before.
    not_portable: what the depths `load` and `predict` found: stock Keras does not load
        the checkpoint, or loads something else. The checkpoint is good all the same.
    """

    depth: Depth
    when: float
    findings: Annotated[tuple[Finding, ...], FailFast()] = ()
    note: str = ""
    done: bool = True
    not_portable: Annotated[tuple[Finding, ...], FailFast()] = ()

    @property
    def good(self) -> bool:
        """Whether nothing wrong was found."""
        return not self.findings

    @property
    def portable(self) -> bool | None:
        """Whether stock Keras loads the checkpoint as it was saved; None if that is not known."""
        if self.not_portable:
            return False
        loaded = DEPTHS.index(self.depth) >= DEPTHS.index("load")
        return True if loaded and self.good and self.done else None

    def not_portable_shown(self) -> str:
        """What is not portable, that it is no damage, and what still loads it: one line."""
        first, *more = self.not_portable
        others = f" and {len(more)} more" if more else ""
        return f"whole, and not portable: {first}{others}; {self.note}"

    @property
    def examined(self) -> Depth:
        """The deepest depth at which the checkpoint was examined, passed or not."""
        kinds = {finding.kind for finding in self.not_portable}
        if "predict" in kinds:
            return "predict"
        return "load" if kinds else self.depth

    @property
    def only_untrusted(self) -> bool:
        """Whether all that is wrong is that the key does not vouch for it.

        With another key, or none, it may be good: nothing is held against it for good.
        """
        return self._only(_UNTRUSTED)

    @property
    def only_unsigned(self) -> bool:
        """Whether, of that, it is only that no key has vouched for its files yet."""
        return self._only(_UNTRUSTED - {SignatureError.kind})

    def _only(self, kinds: Collection[str]) -> bool:
        return not self.good and all(each.kind in kinds for each in self.findings)


def supersedes(new: Verification, old: Verification | None) -> bool:
    """Whether `new` says more than `old`: neither a shallow good outcome nor none says more."""
    if old is None or not old.done:
        return True
    deeper = DEPTHS.index(new.examined) >= DEPTHS.index(old.examined)
    return new.done and (not new.good or bool(new.not_portable) or deeper)


def without_load_findings(recorded: Verification) -> Verification:
    """A recorded outcome, without what version 0.1 recorded of `load` and `predict` as damage.

    Such a checkpoint counts as unverified, so that its files are checked again.
    """
    if recorded.good or not all(finding.kind in _LOADING for finding in recorded.findings):
        return recorded
    note = f"an earlier version recorded as damage: {recorded.findings[0]}"
    return Verification("bytes", recorded.when, note=note, done=False)


@dataclass(frozen=True, slots=True)
class _Head:
    """What every format of this file has, whatever else changes."""

    format: int


_HEAD = TypeAdapter(_Head)
_MANIFEST = TypeAdapter(Manifest)
_VERIFICATION = TypeAdapter(Verification)
_SEAL = b',\n  "seal": "%s"\n}\n'
_SEAL_LENGTH = len(_SEAL % bytes(32))
# A line of its own, which no text inside of JSON can be: there a line's end is written \\n.
_TENSORS, _TENSORS_END = b'\n  "tensors": [', b"\n  ]"
_NO_SHA256 = b',\n      "sha256": null'


class SignatureError(CheckpointError):
    """A manifest that is not signed with the key that was asked for. kind: of the finding."""

    kind = "signature"


class UnsignedError(SignatureError):
    """A manifest that nobody signed."""

    kind = "unsigned"


class UnhashedError(SignatureError):
    """A manifest that is signed, and has no SHA-256 of its files: they may be any."""

    kind = "unhashed"


_LOADING = {"load", "predict"}
_UNTRUSTED = {each.kind for each in (SignatureError, UnsignedError, UnhashedError)}


def to_json(value: Manifest | Verification, key: Key | None = None) -> bytes:
    """`value` as sealed JSON, indented by two spaces, for people to read.

    key: to sign it with.

    Standard JSON: metrics that are not finite become the strings "NaN",
    "Infinity" and "-Infinity", and are read back as the numbers they were.
    """
    text = pydantic_to_json(value, indent=2, inf_nan_mode="strings", fallback=list)
    body = text.removesuffix(b"\n}").replace(_NO_SHA256, b"")
    if key is not None:
        body = manifest_signature.signed(body, key)
    return body + _SEAL % _digest(body)


def read_manifest(directory: Path, key: Key | None = None) -> Manifest:
    """The manifest of the checkpoint in `directory`.

    key: that it must be signed with, SignatureError if it is not, or if it has no
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
    """The same manifest, its tensors left on the disk until they are asked for.

    What that costs does not grow with the model. The seal vouches for what is not
    looked at. Raises CheckpointError as `read_manifest`.
    """
    path = f"{directory}/{MANIFEST}"
    text = _content(path)
    start, end = text.find(_TENSORS), text.rfind(_TENSORS_END)
    if 0 <= start < end and _sealed(text):
        outline = text[: start + len(_TENSORS)] + text[end:]
        try:
            manifest = _MANIFEST.validate_json(outline)
        except ValidationError:
            pass  # told below, in full
        else:
            if manifest.format == FORMAT_VERSION:
                return replace(manifest, tensors=_OnDisk(path, text[-_SEAL_LENGTH:]))
    return manifest_from_json(text, path)


def manifest_from_json(text: bytes, where: str) -> Manifest:
    """The manifest that `to_json` made this text of. Raises CheckpointError as `read_manifest`."""
    value = _parsed(text, where)
    known = _validated(_HEAD, value, where).format
    if known != FORMAT_VERSION:
        raise CheckpointError(
            f"checkpoint format {known} is not known",
            where,
            "a newer keras_savekit wrote it, or the file is damaged",
        )
    return _unsealed(_MANIFEST, value, text, where)


def read_verification(directory: Path) -> Verification | None:
    """The last verification of the checkpoint in `directory`, None if there is none.

    Raises CheckpointError if there is one that cannot be read.
    """
    path = f"{directory}/{VERIFICATION}"
    try:
        text = _content(path)
    except _MissingError:
        return None
    return _unsealed(_VERIFICATION, _parsed(text, path), text, path)


class _MissingError(CheckpointError):
    pass


class _OnDisk(Sequence[TensorEntry]):
    """The tensors of the manifest in a file, as long as it has this seal; read each time."""

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
    if not manifest_signature.is_signed(body):
        raise UnsignedError("is not signed", path)
    if not manifest_signature.is_signed_with(body, key):
        what = "its signature is wrong: it was made with another key, or changed since"
        raise SignatureError(what, path)
    bare = [each.name for each in manifest.files if each.sha256 is None]
    if bare:
        what = f"is signed without a SHA-256 of {bare[0]}, which may be any file"
        raise UnhashedError(what, path, "an older version wrote it; only without a key it is read")


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
            what = f"{name} is not a plain file"  # a link, a folder, a pipe, a socket
        else:
            raise unreadable("cannot be read", path, error) from error
        raise CheckpointError(what, path) from error
    except MemoryError as error:
        raise unreadable("cannot be read", path, error) from error


def _unsealed(adapter: TypeAdapter[T], parsed: object, text: bytes, where: str) -> T:
    value = _validated(adapter, parsed, where)
    if not _sealed(text):
        raise CheckpointError("changed since it was written: its seal does not fit", where)
    return value


def _sealed(text: bytes) -> bool:
    return text[-_SEAL_LENGTH:] == _SEAL % _digest(memoryview(text)[:-_SEAL_LENGTH])


def _parsed(text: bytes, where: str) -> object:
    try:
        return from_json(text)
    except ValueError as error:
        raise CheckpointError(f"malformed: {error}", where) from error


def _validated(adapter: TypeAdapter[T], parsed: object, where: str) -> T:
    try:
        # Not `validate_json`, whose errors hold a copy each of everything around them.
        return adapter.validate_python(parsed)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        part = ".".join(str(each) for each in first["loc"]) or "the file"
        raise CheckpointError(f"malformed: {part}: {first['msg']}", where) from error


def _digest(body: bytes | memoryview) -> bytes:
    digest: str = xxhash.xxh3_128_hexdigest(body)
    return digest.encode("ascii")
