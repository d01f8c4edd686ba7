"""Depth `bytes`: the files of a checkpoint are those it promises, to the last bit.

Read from the disk and not from the page cache. What is in the files is the business
of `structure`.
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
from keras_savekit.store.regular_file import FLAGS, inside

MOST_EXTRA = 100  # to be named, of files the manifest does not know


class Inspection(NamedTuple):
    """What came of looking at a checkpoint.

    findings: evidence that it is damaged.
    unknown: what could not be looked at, since the system failed: no evidence of anything.
    """

    findings: tuple[Finding, ...]
    unknown: tuple[UnverifiableError, ...] = ()

    def conclusive_findings(self) -> tuple[Finding, ...]:
        """The findings; UnverifiableError if there are none and not all was looked at."""
        if self.unknown and not self.findings:
            raise self.unknown[0]
        return self.findings


def check_bytes(
    directory: Path,
    manifest: Manifest,
    *,
    sha256: bool = False,
    range_digests: Mapping[str, RangeDigests] | None = None,
) -> tuple[Finding, ...]:
    """Everything in which the files of `directory` differ from what `manifest` promises.

    Missing, extra, longer, shorter and changed files all count. Names that lead
    out of the directory are findings and are never opened.

    sha256: whether files are compared with that too, as behind a signature they must be:
        who changes one on purpose can keep its xxh3_128.
    range_digests: to be digested on the way, by the names of their files.

    Raises UnverifiableError if nothing is wrong as far as could be looked at, and the
    system failed at the rest.
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
    """The same, with what could not be looked at; `where` of it is the name of the file."""
    findings: list[Finding] = []
    unknown: list[UnverifiableError] = []
    checked: set[str] = set()
    for entry in manifest.files:
        if entry.name in checked:
            findings.append(Finding("twice", entry.name, "the manifest names the file twice"))
            continue
        checked.add(entry.name)
        with _evidence(entry.name, findings, unknown):
            wanted = range_digests.get(entry.name) if range_digests else None
            findings += syscalls.retry_once(partial(_check_file, directory, entry, sha256, wanted))
    with _evidence(".", findings, unknown):
        findings += syscalls.retry_once(lambda: _some_extra(directory, checked))
    return Inspection(tuple(findings), tuple(unknown))


def path_or_finding(directory: Path, name: str) -> Path | Finding:
    """The file `name` of a checkpoint, or why it must not be opened.

    Raises OSError if the disk does.
    """
    try:
        return inside(directory, name)
    except DefectError as error:
        return Finding(error.kind, name, error.what)


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
        digest, strong = _digests(descriptor, size, sha256, range_digests)
        if digest != entry.digest:
            return [Finding("digest", entry.name, "the file's content is not what was written")]
        if sha256 and strong != entry.sha256:
            what = "the file was replaced by one with the same xxh3_128 and another SHA-256"
            return [Finding("forged", entry.name, what)]
        return []
    finally:
        syscalls.close(descriptor)


def _digests(
    descriptor: int, size: int, sha256: bool, range_digests: RangeDigests | None
) -> tuple[str, str | None]:
    """xxh3_128 of a file, and SHA-256 if that is wanted."""
    digest, strong = xxhash.xxh3_128(), hashlib.sha256() if sha256 else None
    with FileReader(descriptor) as reader:
        for piece in reader.pieces(0, size):
            digest.update(piece)
            if range_digests is not None:
                range_digests.update(piece)
            if strong is not None:
                strong.update(piece)
    return digest.hexdigest(), None if strong is None else strong.hexdigest()


def _some_extra(directory: Path, promised: set[str]) -> list[Finding]:
    extra = list(islice(_extra(directory, promised), MOST_EXTRA + 1))
    if extra[MOST_EXTRA:]:
        extra[MOST_EXTRA:] = [Finding("extra", ".", f"more than {MOST_EXTRA} files are too many")]
    return extra


def _extra(directory: Path, promised: set[str]) -> Iterator[Finding]:
    ours = {MANIFEST, VERIFICATION, PINNED}
    files = {PurePosixPath(name).as_posix() for name in promised} | ours
    folders = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    pending = [""]  # and no recursion: folders may be nested deeper than Python's stack
    while pending:
        prefix = pending.pop()
        with os.scandir(directory / prefix) as entries:
            found = sorted(entries, key=lambda each: each.name)
        for entry in found:
            name, is_folder = prefix + entry.name, entry.is_dir(follow_symlinks=False)
            if name not in (folders if is_folder else files):
                yield Finding("extra", name, "the manifest does not know it")
            elif name in ours and not entry.is_file(follow_symlinks=False):
                yield Finding("unreadable", name, "is not a plain file")
        pending += [f"{prefix}{each.name}/" for each in found if each.is_dir(follow_symlinks=False)]


@contextmanager
def _evidence(
    where: str, findings: list[Finding], unknown: list[UnverifiableError]
) -> Iterator[None]:
    """The seam: what the system raises is evidence of damage, or only unknown."""
    try:
        yield
    except (OSError, MemoryError) as error:
        failed = unverifiable(error, where)
        if failed is not None:
            unknown.append(failed)
        else:
            findings.append(Finding("unreadable", where, f"cannot be read: {error}"))
