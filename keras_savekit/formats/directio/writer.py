"""Write a new file from its first byte to its last, without the page cache.

Training uses all cores. Copying into the page cache makes it a third slower, while writing
directly from memory costs almost nothing (`O_DIRECT`; `docs/benchmarks.md`). The kernel then
requires whole pages of page-aligned memory: such data are written without a copy, other data
through one page-aligned buffer. If the file system refuses `O_DIRECT`, files are written as
usual.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
import xxhash

from keras_savekit.formats.directio.memory import PAGE, allocate_pages
from keras_savekit.store import syscalls
from keras_savekit.store.manifest import FileEntry

PIECE = 4 * 2**20  # bytes that are digested and written at once
_REFUSED = {errno.EINVAL, errno.ENOTSUP}


class FileWriter:
    """Writes one new file. A context manager: the file is complete after a normal exit.

    sha256: whether to compute the SHA-256 too, for a manifest that is signed. At 1 to 2 GB/s
        it costs several times as much as xxh3_128.

    size: the number of bytes written so far.
    shared: how many of them use no space, since another file has the same blocks.

    Raises OSError if the system fails; an incomplete file then remains. Nothing is synced:
    publishing does that.
    """

    def __init__(self, path: Path, *, sha256: bool = False) -> None:
        self.path = path
        self._descriptor = syscalls.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        self._direct = syscalls.set_direct(self._descriptor, True)
        self._buffer = allocate_pages(PIECE, large=True).data
        self._buffered = 0  # bytes in the buffer
        self._written = 0
        self._digest = xxhash.xxh3_128()
        self._sha256 = hashlib.sha256() if sha256 else None
        self._source: int | None = None
        self.size = self.shared = 0

    def write(self, data: memoryview) -> None:
        """Write the next bytes of the file."""
        self._digest.update(data)
        if self._sha256 is not None:
            self._sha256.update(data)
        self.size += len(data)
        while data:
            if not self._buffered % PAGE and self._whole_pages(data):
                self._flush()
                whole = self._direct or self._source is not None
                length = len(data) - len(data) % PAGE if whole else len(data)
                self._put(data[:length])
            else:
                length = min(len(data), PIECE - self._buffered)
                self._buffer[self._buffered : self._buffered + length] = data[:length]
                self._buffered += length
                if self._buffered == PIECE:
                    self._flush()
            data = data[length:]

    @contextmanager
    def share_with(self, source: int) -> Iterator[None]:
        """Give a context in which the data are those at the same offsets of another file.

        They are not written again if the file system lets files share blocks.

        source: a descriptor of the other file.
        """
        if not self._buffered % PAGE:
            self._flush()
            self._source = source
        try:
            yield
        finally:
            self._source = None

    def digest(self) -> str:
        """Return the xxh3_128, in hex, of all bytes written so far."""
        text: str = self._digest.hexdigest()
        return text

    def entry(self) -> FileEntry:
        """Return the manifest's entry of the file, after the last byte was written."""
        sha256 = None if self._sha256 is None else self._sha256.hexdigest()
        return FileEntry(self.path.name, self.size, self.digest(), sha256)

    def __enter__(self) -> FileWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with syscalls.closing(self._descriptor):
            if kind is None:
                if self._buffered % PAGE:
                    syscalls.set_direct(self._descriptor, False)
                self._flush()

    def _whole_pages(self, data: memoryview) -> bool:
        """Whether `data` can be written without a copy."""
        if len(data) < PAGE:
            return False
        return not self._direct or np.frombuffer(data, np.uint8).ctypes.data % PAGE == 0

    def _flush(self) -> None:
        count, self._buffered = self._buffered, 0
        self._put(self._buffer[:count])

    def _put(self, data: memoryview) -> None:
        if self._source is not None and self._share(self._source, len(data)):
            return
        while data:
            try:
                written = syscalls.pwrite(self._descriptor, data, self._written)
            except OSError as error:
                if not self._direct or error.errno not in _REFUSED:
                    raise
                self._direct = False  # some file systems accept the flag and fail later
                syscalls.set_direct(self._descriptor, False)
                continue
            self._written += written
            data = data[written:]

    def _share(self, source: int, length: int) -> bool:
        try:
            syscalls.clone(source, self._descriptor, self._written, length)
        except OSError:  # if the disk is the cause, writing fails too
            self._source = None
            return False
        self._written += length
        self.shared += length
        return True
