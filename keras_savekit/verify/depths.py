"""The depths that need no Keras, in order, each including those before."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from keras_savekit.base.key import Key
from keras_savekit.errors import CheckpointError, UnverifiableError
from keras_savekit.store.manifest import (
    MANIFEST,
    Depth,
    Finding,
    SignatureError,
    Verification,
    read_manifest,
)
from keras_savekit.store.read_errors import retried, unverifiable
from keras_savekit.verify.bytes import Inspection, inspect_bytes

ShallowDepth = Literal["bytes", "structure"]
COULD_NOT = "could not be verified"


def verify_files(
    directory: Path, depth: ShallowDepth, now: float, key: Key | None = None
) -> Verification:
    """Checks the checkpoint in `directory` and returns what was found.

    Arguments:
        directory: of one checkpoint.
        depth: `bytes`: files and digests; `structure`: every tensor as well.
        now: seconds since 1970, to be recorded.
        key: that its manifest must be signed with; files are then compared with their
            SHA-256 too.

    The depth returned is `bytes` where damage there kept `structure` from
    looking at everything. Where nothing is wrong as far as could be looked at, and the
    system failed at the rest, twice, the outcome is not done, and its note says why.
    """
    try:
        return check_files(directory, depth, now, key)
    except UnverifiableError as error:
        return unverified(error, now)


def unverified(error: UnverifiableError, now: float) -> Verification:
    """The outcome for a checkpoint that could not be verified."""
    return Verification("bytes", now, note=why_unverified(error), done=False)


def why_unverified(error: UnverifiableError) -> str:
    """Why a checkpoint could not be verified, on one line."""
    where = f" [{Path(error.where).name}]" if error.where else ""
    return f"{COULD_NOT}: {error.what}{where}"


def check_files(
    directory: Path, depth: ShallowDepth, now: float, key: Key | None = None
) -> Verification:
    """The same as `verify_files`, but UnverifiableError if it cannot be verified."""
    return retried(lambda: _examined(directory, depth, now, key))


def _examined(directory: Path, depth: ShallowDepth, now: float, key: Key | None) -> Verification:
    try:
        return _compared(directory, depth, now, key)
    except UnverifiableError:
        raise
    except (OSError, MemoryError, ImportError) as error:  # what no seam below translated
        failed = unverifiable(error, str(directory))
        raise failed or UnverifiableError(f"{error}", str(directory)) from error


def _compared(directory: Path, depth: ShallowDepth, now: float, key: Key | None) -> Verification:
    try:
        manifest = read_manifest(directory, key)
    except SignatureError as error:
        finding = Finding(error.kind, MANIFEST, error.what)
        return Verification("bytes", now, (finding,), "what is not signed is not looked at")
    except UnverifiableError:
        raise
    except CheckpointError as error:
        finding = Finding("manifest", MANIFEST, error.what)
        return Verification("bytes", now, (finding,), "without a manifest nothing can be compared")
    if depth == "bytes":
        files = inspect_bytes(directory, manifest, sha256=key is not None)
        return _outcome(depth, now, files)

    from keras_savekit.verify.tensors import inspect_structure, range_digests_of

    range_digests = range_digests_of(manifest)
    files = inspect_bytes(directory, manifest, sha256=key is not None, range_digests=range_digests)
    # Of a file that could not be read it is not known whether HDF5 survives opening it.
    damaged = {finding.where for finding in files.findings}
    hold_exclusive = {error.where for error in files.unknown}
    closed = [each.name for each in manifest.files if each.name in damaged | hold_exclusive]
    tensors = inspect_structure(directory, manifest, closed=closed, range_digests=range_digests)
    found = Inspection(files.findings + tensors.findings, files.unknown + tensors.unknown)
    if closed:
        note = f"damaged files are not opened: {', '.join(closed)}"
        return _outcome("bytes", now, found, note)
    return _outcome(depth, now, found)


def _outcome(depth: Depth, now: float, found: Inspection, note: str = "") -> Verification:
    findings = found.conclusive_findings()
    notes = (note, *map(why_unverified, found.unknown[:1]))
    return Verification(depth, now, findings, "; ".join(filter(None, notes)))


def require_signed(directory: Path, key: Key | None) -> None:
    """Raise CheckpointError unless the checkpoint is signed with the key, its files too.

    UnverifiableError if the system failed. Without a key nothing is asked.
    """
    if key is None:
        return
    read_manifest(directory, key)
    found = check_files(directory, "bytes", 0.0, key)
    if not found.good:
        raise CheckpointError(f"is damaged: {found.findings[0]}", str(directory))
