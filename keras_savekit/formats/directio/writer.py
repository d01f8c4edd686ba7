"""A new file, written from its first byte to its last, past the page cache.

Training keeps all cores busy, and copying into the page cache costs it a third of
its speed where writing straight from memory costs next to nothing (`O_DIRECT`;
`docs/benchmarks.md`). The kernel wants whole pages from page-aligned memory then:
what lies so is written from where it lies, the rest by way of one page-aligned
buffer. File systems that refuse `O_DIRECT` are written to as usual.
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

from keras_savekit.formats.directio.memory import PAGE, page_aligned
from keras_savekit.store import syscalls
from keras_savekit.store.manifest import FileEntry

PIECE = 4 * 2**20  # what is digested and written in one go
_REFUSED = {errno.EINVAL, errno.ENOTSUP}


class FileWriter:
    """The file being written. A context manager; leave it normally to have the file complete.

    sha256: whether that is taken too, for a manifest that will be signed; at 1 to 2 GB/s
        it costs several times what xxh3_128 does.

    size: bytes given so far.
    shared: those of them that take no room, since another file has the same blocks.

    Raises OSError as the system does; the file is then left half written. Nothing
    is synced: publishing does that.
    """

    def __init__(self, path: Path, *, sha256: bool = False) -> None:
        self.path = path
        self._descriptor = syscalls.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        self._direct = syscalls.set_direct(self._descriptor, True)
        self._waiting = page_aligned(PIECE, large=True).data
        self._held = 0  # bytes in it
        self._written = 0
        self._digest = xxhash.xxh3_128()
        self._sha256 = hashlib.sha256() if sha256 else None
        self._source: int | None = None
        self.size = self.shared = 0

    def write(self, data: memoryview) -> None:
        """Add bytes."""
        self._digest.update(data)
        if self._sha256 is not None:
            self._sha256.update(data)
        self.size += len(data)
        while data:
            if not self._held % PAGE and self._whole_pages(data):
                self._flush()
                whole = self._direct or self._source is not None
                length = len(data) - len(data) % PAGE if whole else len(data)
                self._put(data[:length])
            else:
                length = min(len(data), PIECE - self._held)
                self._waiting[self._held : self._held + length] = data[:length]
                self._held += length
                if self._held == PIECE:
                    self._flush()
            data = data[length:]

    @contextmanager
    def sharing(self, source: int) -> Iterator[None]:
        """In here, what is given stands at the same place of another file, from a page on.

        Where the file system lets files share blocks, it is not written again.
        """
        if not self._held % PAGE:
            self._flush()
            self._source = source
        try:
            yield
        finally:
            self._source = None

    def digest(self) -> str:
        """xxh3_128, in hex, of all bytes given so far."""
        text: str = self._digest.hexdigest()
        return text

    def entry(self) -> FileEntry:
        """What a manifest promises of the file, once all is given."""
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
                if self._held % PAGE:
                    syscalls.set_direct(self._descriptor, False)
                self._flush()

    def _whole_pages(self, data: memoryview) -> bool:
        """Whether `data` can be written from where it lies."""
        if len(data) < PAGE:
            return False
        return not self._direct or np.frombuffer(data, np.uint8).ctypes.data % PAGE == 0

    def _flush(self) -> None:
        held, self._held = self._held, 0
        self._put(self._waiting[:held])

    def _put(self, data: memoryview) -> None:
        if self._source is not None and self._shared(self._source, len(data)):
            return
        while data:
            try:
                written = syscalls.pwrite(self._descriptor, data, self._written)
            except OSError as error:
                if not self._direct or error.errno not in _REFUSED:
                    raise
                self._direct = False  # known only now: some file systems take the flag alone
                syscalls.set_direct(self._descriptor, False)
                continue
            self._written += written
            data = data[written:]

    def _shared(self, source: int, length: int) -> bool:
        try:
            syscalls.clone(source, self._descriptor, self._written, length)
        except OSError:  # whatever it is, writing tells
            self._source = None
            return False
        self._written += length
        self.shared += length
        return True
