"""Depth `bytes`: the files of a checkpoint are those it promises, to the last bit.

Read from the disk and not from the page cache, as far as the system lets go of
it: what memory still holds says nothing about what was written. What is in the
files is the business of `structure`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path, PurePosixPath

import xxhash

from keras_savekit.store.manifest import (
    MANIFEST,
    PINNED,
    VERIFICATION,
    FileEntry,
    Finding,
    Manifest,
)
from keras_savekit.store.plain import FLAGS, NotPlainError, inside

PIECE = 4 * 2**20
MOST_EXTRA = 100  # to be named, of files the manifest does not know


def check_bytes(directory: Path, manifest: Manifest) -> tuple[Finding, ...]:
    """Everything in which the files of `directory` differ from what `manifest` promises.

    Missing, extra, longer, shorter and changed files all count. Names that lead
    out of the directory are findings and are never opened.
    """
    findings: list[Finding] = []
    checked: set[str] = set()
    for entry in manifest.files:
        if entry.name in checked:
            findings.append(Finding("twice", entry.name, "the manifest names the file twice"))
            continue
        checked.add(entry.name)
        with _unreadable(entry.name, findings):
            findings.extend(_check_file(directory, entry))
    with _unreadable(".", findings):
        extra = list(islice(_extra(directory, checked), MOST_EXTRA + 1))
        findings += extra[:MOST_EXTRA]
        if extra[MOST_EXTRA:]:
            findings.append(Finding("extra", ".", f"more than {MOST_EXTRA} files are too many"))
    return tuple(findings)


def plain_path(directory: Path, name: str) -> Path | Finding:
    """The file `name` of a checkpoint, or why it must not be opened.

    Raises OSError if the disk does.
    """
    try:
        return inside(directory, name)
    except NotPlainError as error:
        return Finding(error.kind, name, error.what)


def _check_file(directory: Path, entry: FileEntry) -> Iterator[Finding]:
    path = plain_path(directory, entry.name)
    if isinstance(path, Finding):
        yield path
        return
    descriptor = os.open(path, os.O_RDONLY | FLAGS)
    try:
        size = os.fstat(descriptor).st_size
        if size != entry.size:
            what = f"the file has {size} bytes, {entry.size} were written"
            yield Finding("size", entry.name, what)
        elif _digest(descriptor) != entry.digest:
            yield Finding("digest", entry.name, "the file's content is not what was written")
    finally:
        os.close(descriptor)


def _digest(descriptor: int) -> str:
    digest = xxhash.xxh3_128()
    buffer = memoryview(bytearray(PIECE))
    # Dropping needs clean pages: true of published files, which are synced.
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    while length := os.readv(descriptor, [buffer]):
        digest.update(buffer[:length])
    # And none stay behind, so that checking takes no cache away from training.
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    text: str = digest.hexdigest()
    return text


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
def _unreadable(where: str, findings: list[Finding]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        findings.append(Finding("unreadable", where, f"cannot be read: {error.strerror}"))
