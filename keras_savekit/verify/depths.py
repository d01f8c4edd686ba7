"""Verify at the depths that need no Keras. Each depth includes the previous one."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from keras_savekit.base.key import Key
from keras_savekit.errors import CheckpointError, UnverifiableError
from keras_savekit.store.manifest import MANIFEST, Depth, Finding, SignatureError, Verification
from keras_savekit.store.manifest_json import read_manifest
from keras_savekit.store.read_errors import retry_unverifiable, unverifiable
from keras_savekit.verify.bytes import Inspection, inspect_bytes

ShallowDepth = Literal["bytes", "structure"]


def verify_files(
    directory: Path, depth: ShallowDepth, now: float, key: Key | None = None
) -> Verification:
    """Check the checkpoint in `directory`; never raise for damage or a failing system.

    Arguments:
        directory: of one checkpoint.
        depth: `bytes`: files and digests; `structure`: each tensor too.
        now: seconds since 1970, to be recorded.
        key: signs the manifest. Files are then compared with their SHA-256 too.

    The returned depth is `bytes` if `structure` could not check damaged files. If there are
    no findings and the system failed twice, the Verification is not `done`, and its note
    says why.
    """
    try:
        return check_files(directory, depth, now, key)
    except UnverifiableError as error:
        return unverified(error, now)


def unverified(error: UnverifiableError, now: float) -> Verification:
    """Return the Verification, not `done`, of a checkpoint that could not be verified."""
    return Verification("bytes", now, note=why_unverified(error), done=False)


def why_unverified(error: UnverifiableError) -> str:
    """Return why a checkpoint could not be verified, on one line."""
    where = f" [{Path(error.where).name}]" if error.where else ""
    return f"could not be verified: {error.what}{where}"


def check_files(
    directory: Path, depth: ShallowDepth, now: float, key: Key | None = None
) -> Verification:
    """Check as `verify_files` does, but raise UnverifiableError if it is not `done`."""
    return retry_unverifiable(lambda: _check(directory, depth, now, key))


def _check(directory: Path, depth: ShallowDepth, now: float, key: Key | None) -> Verification:
    try:
        return _compare(directory, depth, now, key)
    except UnverifiableError:
        raise
    except (OSError, MemoryError, ImportError) as error:  # not translated at a lower level
        failure = unverifiable(error, str(directory))
        raise failure or UnverifiableError(f"{error}", str(directory)) from error


def _compare(directory: Path, depth: ShallowDepth, now: float, key: Key | None) -> Verification:
    try:
        manifest = read_manifest(directory, key)
    except SignatureError as error:
        finding = Finding(error.kind, MANIFEST, error.what)
        return Verification("bytes", now, (finding,), "files are not checked without a signature")
    except UnverifiableError:
        raise
    except CheckpointError as error:
        finding = Finding("manifest", MANIFEST, error.what)
        return Verification("bytes", now, (finding,), "files cannot be checked without a manifest")
    if depth == "bytes":
        files = inspect_bytes(directory, manifest, sha256=key is not None)
        return _outcome(depth, now, files)

    from keras_savekit.verify.tensors import inspect_structure, range_digests_of

    range_digests = range_digests_of(manifest)
    files = inspect_bytes(directory, manifest, sha256=key is not None, range_digests=range_digests)
    # A file that could not be read may be damaged, and HDF5 may loop forever in it.
    damaged = {finding.where for finding in files.findings}
    unreadable = {error.where for error in files.errors}
    closed = [entry.name for entry in manifest.files if entry.name in damaged | unreadable]
    tensors = inspect_structure(directory, manifest, closed=closed, range_digests=range_digests)
    found = Inspection(files.findings + tensors.findings, files.errors + tensors.errors)
    if closed:
        note = f"damaged files are not opened: {', '.join(closed)}"
        return _outcome("bytes", now, found, note)
    return _outcome(depth, now, found)


def _outcome(depth: Depth, now: float, found: Inspection, note: str = "") -> Verification:
    findings = found.conclusive_findings()
    notes = (note, *map(why_unverified, found.errors[:1]))
    return Verification(depth, now, findings, "; ".join(filter(None, notes)))


def require_signed(directory: Path, key: Key | None) -> None:
    """Raise CheckpointError unless the checkpoint and its files are signed with the key.

    Raises UnverifiableError if the system fails. Does nothing without a key.
    """
    if key is None:
        return
    read_manifest(directory, key)
    found = check_files(directory, "bytes", 0.0, key)
    if not found.good:
        raise CheckpointError(f"is damaged: {found.findings[0]}", str(directory))
