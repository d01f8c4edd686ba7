"""Depth `bytes`: the files of a checkpoint are those it promises, to the last bit.

Read from the disk and not from the page cache, as far as the system lets go of
it: what memory still holds says nothing about what was written. What is in the
files is the business of `structure`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import xxhash

from keras_savekit.errors import CheckpointError
from keras_savekit.store import disk
from keras_savekit.store.manifest import (
    MANIFEST,
    PINNED,
    VERIFICATION,
    FileEntry,
    Finding,
    Manifest,
)

PIECE = 4 * 2**20
# This process has no more memory or descriptors: no fault of the checkpoint's.
_OURS = {errno.ENOMEM, errno.EMFILE, errno.ENFILE}


def check_bytes(directory: Path, manifest: Manifest) -> tuple[Finding, ...]:
    """Everything in which the files of `directory` differ from what `manifest` promises.

    Missing, extra, longer, shorter and changed files all count. Names that lead
    out of the directory are findings and are never opened.
    """
    findings: list[Finding] = []
    for entry in manifest.files:
        with _unreadable(entry.name, findings):
            findings.extend(_check_file_twice(directory, entry))
    with _unreadable(".", findings):
        findings.extend(_extra(directory, {entry.name for entry in manifest.files}))
    return tuple(findings)


def plain_path(directory: Path, name: str) -> Path | Finding:
    """The file `name` of a checkpoint, or why it must not be opened.

    Only a relative path without `..`, none of whose parts is a link, stays
    inside. Raises OSError if the disk does.
    """
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
        return Finding("escape", name, f"the name {name!r} leads out of the checkpoint")
    at = directory
    for part in path.parts:
        at = at / part
        try:
            mode = at.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return Finding("missing", name, "the file is missing")
        if stat.S_ISLNK(mode):
            return Finding("link", name, "is a link; links are not followed")
    if not stat.S_ISREG(mode):
        return Finding("unreadable", name, "is not a plain file")
    return at


def _check_file_twice(directory: Path, entry: FileEntry) -> list[Finding]:
    try:
        return list(_check_file(directory, entry))
    except OSError:  # a disk that fails once says nothing of the file
        return list(_check_file(directory, entry))


def _check_file(directory: Path, entry: FileEntry) -> Iterator[Finding]:
    path = plain_path(directory, entry.name)
    if isinstance(path, Finding):
        yield path
        return
    # Not following and not waiting: the file may have changed since the look at it.
    descriptor = disk.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        size = os.fstat(descriptor).st_size
        if size != entry.size:
            what = f"the file has {size} bytes, {entry.size} were written"
            yield Finding("size", entry.name, what)
        elif _digest(descriptor) != entry.digest:
            yield Finding("digest", entry.name, "the file's content is not what was written")
    finally:
        disk.close(descriptor)


def _digest(descriptor: int) -> str:
    digest = xxhash.xxh3_128()
    buffer = memoryview(bytearray(PIECE))
    # Dropping needs clean pages: true of published files, which are synced.
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    while length := disk.readv(descriptor, [buffer]):
        digest.update(buffer[:length])
    # And none stay behind, so that checking takes no cache away from training.
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    text: str = digest.hexdigest()
    return text


def _extra(directory: Path, promised: set[str]) -> Iterator[Finding]:
    files = {PurePosixPath(name).as_posix() for name in promised} | {MANIFEST, VERIFICATION, PINNED}
    folders = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    for name, is_folder in sorted(_tree(directory, "")):
        if name not in (folders if is_folder else files):
            yield Finding("extra", name, "the manifest does not know it")
        elif name == VERIFICATION and not (directory / name).is_file():
            yield Finding("unreadable", name, "is not a plain file")


def _tree(directory: Path, prefix: str) -> Iterator[tuple[str, bool]]:
    with os.scandir(directory) as entries:
        for entry in entries:
            is_folder = entry.is_dir(follow_symlinks=False)
            yield prefix + entry.name, is_folder
            if is_folder:
                yield from _tree(directory / entry.name, f"{prefix}{entry.name}/")


@contextmanager
def _unreadable(where: str, findings: list[Finding]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _OURS:
            raise CheckpointError(f"cannot be verified: {error.strerror}", where) from error
        findings.append(Finding("unreadable", where, f"cannot be read: {error.strerror}"))
