"""The depths that need no Keras, in order, each including those before."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from keras_savekit.base.key import Key
from keras_savekit.errors import CheckpointError
from keras_savekit.store.manifest import (
    MANIFEST,
    Finding,
    SignatureError,
    Verification,
    read_manifest,
)
from keras_savekit.verify.bytes import check_bytes

ShallowDepth = Literal["bytes", "structure"]


def verify_shallow(
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
    looking at everything.
    """
    try:
        manifest = read_manifest(directory, key)
    except SignatureError as error:
        finding = Finding(error.kind, MANIFEST, error.what)
        return Verification("bytes", now, (finding,), "what is not signed is not looked at")
    except CheckpointError as error:
        finding = Finding("manifest", MANIFEST, error.what)
        return Verification("bytes", now, (finding,), "without a manifest nothing can be compared")
    if depth == "bytes":
        return Verification(depth, now, check_bytes(directory, manifest, sha256=key is not None))

    from keras_savekit.verify.tensors import check_structure, parts_of

    parts = parts_of(manifest)
    findings = check_bytes(directory, manifest, sha256=key is not None, parts=parts)
    damaged = {finding.where for finding in findings}
    closed = [entry.name for entry in manifest.files if entry.name in damaged]
    findings += check_structure(directory, manifest, closed=closed, parts=parts)
    if closed:
        note = f"damaged files are not opened: {', '.join(closed)}"
        return Verification("bytes", now, findings, note)
    return Verification(depth, now, findings)


def require_signed(directory: Path, key: Key | None) -> None:
    """Raise CheckpointError unless the checkpoint is signed with the key, its files too.

    Without a key nothing is asked.
    """
    if key is None:
        return
    read_manifest(directory, key)
    found = verify_shallow(directory, "bytes", 0.0, key)
    if not found.good:
        raise CheckpointError(f"is damaged: {found.findings[0]}", str(directory))
