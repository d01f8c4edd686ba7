"""Depth `bytes`: compare the files of a checkpoint with its manifest, to the last bit.

Files are read from the disk, not from the page cache. `tensors` checks their content.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import xxhash

from keras_savekit.base.defects import DefectError
from keras_savekit.errors import UnverifiableError
from keras_savekit.formats.directio.reader import FileReader, RangeDigests
from keras_savekit.store import syscalls
from keras_savekit.store.manifest import (
    MANIFEST,
    PINNED,
    VERIFICATION,
    FileEntry,
    Finding,
    Manifest,
)
from keras_savekit.store.read_errors import unverifiable
from keras_savekit.store.regular_file import FLAGS, resolve_inside

MOST_EXTRA = 100  # files to name that are not in the manifest


class Inspection(NamedTuple):
    """The result of checking a checkpoint.

    findings: evidence of damage.
    errors: failures of the system. Parts of the checkpoint were not checked because of them;
        they are no evidence of damage. `where` of each is the place of such a part.
    """

    findings: tuple[Finding, ...]
    errors: tuple[UnverifiableError, ...] = ()

    def conclusive_findings(self) -> tuple[Finding, ...]:
        """Return the findings. Raise UnverifiableError if there are none and a check failed."""
        if self.errors and not self.findings:
            raise self.errors[0]
        return self.findings


def check_bytes(
    directory: Path,
    manifest: Manifest,
    *,
    sha256: bool = False,
    range_digests: Mapping[str, RangeDigests] | None = None,
) -> tuple[Finding, ...]:
    """Return each difference between the files in `directory` and `manifest`.

    Missing, extra, longer, shorter and changed files all count. Names that lead out of the
    directory are findings and are never opened.

    sha256: whether to compare the SHA-256 of files too. This is necessary behind a signature:
        an attacker can change a file and keep its xxh3_128.
    range_digests: file name to the digests of its ranges, which are computed meanwhile.

    Raises UnverifiableError if there are no findings and the system failed.
    """
    return inspect_bytes(
        directory, manifest, sha256=sha256, range_digests=range_digests
    ).conclusive_findings()


def inspect_bytes(
    directory: Path,
    manifest: Manifest,
    *,
    sha256: bool = False,
    range_digests: Mapping[str, RangeDigests] | None = None,
) -> Inspection:
    """Return the same findings as `check_bytes`, and the errors of the system."""
    findings: list[Finding] = []
    errors: list[UnverifiableError] = []
    checked: set[str] = set()
    for entry in manifest.files:
        if entry.name in checked:
            findings.append(Finding("twice", entry.name, "the manifest names the file twice"))
            continue
        checked.add(entry.name)
        with _collecting(entry.name, findings, errors):
            digests = range_digests.get(entry.name) if range_digests else None
            findings += syscalls.retry_once(partial(_check_file, directory, entry, sha256, digests))
    with _collecting(".", findings, errors):
        findings += syscalls.retry_once(lambda: _first_extra(directory, checked))
    return Inspection(tuple(findings), tuple(errors))


def path_or_finding(directory: Path, name: str) -> Path | Finding:
    """Return the path of the file `name` of a checkpoint, or why it must not be opened.

    Raises OSError if the disk fails.
    """
    try:
        return resolve_inside(directory, name)
    except DefectError as defect:
        return Finding(defect.kind, name, defect.what)


def _check_file(
    directory: Path, entry: FileEntry, sha256: bool, range_digests: RangeDigests | None
) -> list[Finding]:
    path = path_or_finding(directory, entry.name)
    if isinstance(path, Finding):
        return [path]
    descriptor = syscalls.open(path, os.O_RDONLY | FLAGS)
    if range_digests is not None:
        range_digests.restart()
    try:
        size = os.fstat(descriptor).st_size
        if size != entry.size:
            what = f"the file has {size} bytes, {entry.size} were written"
            return [Finding("size", entry.name, what)]
        digest, sha256_digest = _digests(descriptor, size, sha256, range_digests)
        if digest != entry.digest:
            return [Finding("digest", entry.name, "the file's content is not what was written")]
        if sha256 and sha256_digest != entry.sha256:
            what = "the file was replaced by one with the same xxh3_128 and another SHA-256"
            return [Finding("forged", entry.name, what)]
        return []
    finally:
        syscalls.close(descriptor)


def _digests(
    descriptor: int, size: int, sha256: bool, range_digests: RangeDigests | None
) -> tuple[str, str | None]:
    """Return the xxh3_128 of a file, and its SHA-256 if requested."""
    digest, sha256_digest = xxhash.xxh3_128(), hashlib.sha256() if sha256 else None
    with FileReader(descriptor) as reader:
        for piece in reader.pieces(0, size):
            digest.update(piece)
            if range_digests is not None:
                range_digests.update(piece)
            if sha256_digest is not None:
                sha256_digest.update(piece)
    strong = None if sha256_digest is None else sha256_digest.hexdigest()
    return digest.hexdigest(), strong


def _first_extra(directory: Path, promised: set[str]) -> list[Finding]:
    extra = list(islice(_extra(directory, promised), MOST_EXTRA + 1))
    if extra[MOST_EXTRA:]:
        extra[MOST_EXTRA:] = [Finding("extra", ".", f"more than {MOST_EXTRA} files are extra")]
    return extra


def _extra(directory: Path, promised: set[str]) -> Iterator[Finding]:
    ours = {MANIFEST, VERIFICATION, PINNED}
    files = {PurePosixPath(name).as_posix() for name in promised} | ours
    folders = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    # Without recursion: folders may be nested deeper than Python's stack allows.
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(directory / prefix) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            name, is_folder = prefix + entry.name, entry.is_dir(follow_symlinks=False)
            if name not in (folders if is_folder else files):
                yield Finding("extra", name, "is not in the manifest")
            elif name in ours and not entry.is_file(follow_symlinks=False):
                yield Finding("unreadable", name, "is not a regular file")
        pending += [
            f"{prefix}{entry.name}/" for entry in found if entry.is_dir(follow_symlinks=False)
        ]


@contextmanager
def _collecting(
    where: str, findings: list[Finding], errors: list[UnverifiableError]
) -> Iterator[None]:
    """Turn errors that are raised inside into findings, or into errors of the system."""
    try:
        yield
    except (OSError, MemoryError) as error:
        failure = unverifiable(error, where)
        if failure is not None:
            errors.append(failure)
        else:
            findings.append(Finding("unreadable", where, f"cannot be read: {error}"))
