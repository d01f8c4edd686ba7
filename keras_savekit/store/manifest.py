"""What a checkpoint promises, what is wrong with one, and how a verification ended.

Values only: `manifest_json` reads and writes them, `verify` checks the promises.
This module knows neither Keras nor TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import FailFast, GetPydanticSchema

from keras_savekit.base.moment import Count, Few, Moment
from keras_savekit.base.roles import Role
from keras_savekit.errors import CheckpointError
from keras_savekit.store.regular_file import as_text

MANIFEST = "manifest.json"
VERIFICATION = "verification.json"
PINNED = "PINNED"  # an empty file: the user pinned this checkpoint
FORMAT_VERSION = 1

Depth = Literal["bytes", "structure", "load", "predict"]
DEPTHS: tuple[Depth, ...] = ("bytes", "structure", "load", "predict")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a checkpoint.

    size: in bytes.
    digest: xxh3_128 of its content, in hex. It detects accidents, not forgery.
    sha256: SHA-256 of its content, in hex, which detects forgery; None if the manifest is
        not signed.
    """

    name: str
    size: Count
    digest: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a snapshot and every place where it is stored.

    role, index: position among the model's tensors of that role
        (`model.weights`, `optimizer.variables`, ...). A `computed` tensor is no
        variable: a layer's own `save_own_variables` made it. A `callback` tensor is
        the state of a callback, an `asset` the bytes of a file of a layer, such as a
        vocabulary.
    name: the variable's Keras path; not necessarily unique.
    dtype: the variable's. A file may store a wider one (bfloat16 as float32).
    digest: xxh3_128, in hex, of the variable's bytes in C order, taken from memory.
    places: each `file:/path/of/dataset`.
    offsets: for each place, the byte of the file at which the tensor starts, if the file
        stores it as it was in memory, else None. Only a hint: it allows the tensor to be
        digested in the pass that reads the file, and HDF5 confirms the offset.
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
    """Split one of `TensorEntry.places` into the file and the path in it."""
    name, mark, path = place.partition(":/")  # a file's name may have a colon
    return (name, path) if mark else (place.partition(":")[0], place.partition(":")[2])


def _tuple_schema(_: Any, schema_of: Callable[[Any], Any]) -> Any:
    return schema_of(Annotated[tuple[TensorEntry, ...], FailFast()])


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one checkpoint promises.

    created: seconds since 1970, for people; checkpoints are ordered by step, never by time.
    model_file: the file that stock Keras reads.
    architecture: digest of the model's config (`formats.config_digest`); empty in older
        manifests.
    tensors: `read_outline` leaves them on the disk until they are used.
    """

    run: str
    plan: str
    save: Literal["model", "weights"]
    reasons: Annotated[tuple[str, ...], FailFast()]
    moment: Moment
    created: float
    model_file: str
    # FailFast: a hostile file has millions of wrong entries, and one is enough to refuse it.
    files: Annotated[tuple[FileEntry, ...], FailFast()]
    tensors: Annotated[Sequence[TensorEntry], GetPydanticSchema(_tuple_schema)]
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
        # File names may contain bytes that are no text; JSON cannot store those.
        object.__setattr__(self, "where", as_text(self.where))
        object.__setattr__(self, "what", as_text(self.what))

    def __str__(self) -> str:
        return f"{self.what} [{self.where}]"


class SignatureError(CheckpointError):
    """The manifest is not signed with the requested key. kind: of the finding."""

    kind = "signature"


class UnsignedError(SignatureError):
    """The manifest is not signed."""

    kind = "unsigned"


class UnhashedError(SignatureError):
    """The manifest is signed but has no SHA-256 of a file, which may therefore be any file."""

    kind = "unhashed"


_LOADING = frozenset({"load", "predict"})
_UNTRUSTED = frozenset(error.kind for error in (SignatureError, UnsignedError, UnhashedError))


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome of a verification: without findings the checkpoint is good.

    depth: the deepest depth that the checkpoint passed; with findings, the depth at
        which they were found.
    findings: evidence of damage, which only the depths `bytes` and `structure` give.
    note: why the requested depth was not reached, if it was not; what still loads a
        checkpoint that is not portable.
    done: False if that was for lack of time or memory, or because the system failed: the
        checkpoint is then as unverified as before.
    not_portable: findings of the depths `load` and `predict`: stock Keras does not load
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
        """Whether the only problem is that the key does not vouch for the checkpoint.

        With another key, or without one, it may be good: this is no evidence of damage.
        """
        return self._only(_UNTRUSTED)

    @property
    def only_unsigned(self) -> bool:
        """Whether the only problem is that no key has vouched for its files yet."""
        return self._only(_UNTRUSTED - {SignatureError.kind})

    def _only(self, kinds: Collection[str]) -> bool:
        return not self.good and all(finding.kind in kinds for finding in self.findings)


def supersedes(new: Verification, old: Verification | None) -> bool:
    """Whether `new` says more than `old`.

    An outcome that is not done never replaces one that is. A good and portable one never
    replaces one of a greater depth.
    """
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
