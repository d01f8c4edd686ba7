"""A file's bytes as they are on the disk, not as the page cache has them.

The cache says nothing about what was written, and filling it costs a training beside
it several times what reading costs. So the cache is gone past where the file system
can (`O_DIRECT`, which reads whole pages to page-aligned memory), else asked to let go
of the file before and after.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from types import TracebackType

from keras_savekit.store import disk

PIECE = 4 * 2**20
_AHEAD = 256 * 1024  # read at once where less is asked for: the next is often behind it
_PAGE = 4096


class Reader:
    """Reads ranges of one open file. A context manager.

    What it yields lies in one buffer, until the next is asked for.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = memoryview(mmap.mmap(-1, PIECE))  # begins at a page
        self._begin = self._end = 0  # what of the file is in it
        self._direct = disk.set_direct(descriptor, True)
        # Dropping needs clean pages: true of published files, which are synced.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def pieces(self, offset: int, size: int, unit: int = 1) -> Iterator[memoryview]:
        """The bytes from `offset` on, each piece a multiple of `unit` bytes; fewer at the end.

        Raises OSError as the system does.
        """
        end = offset + size
        while offset < end:
            if not self._begin <= offset <= min(offset + unit, end) <= self._end:
                self._fetch(offset, end - offset)
            piece = self._buffer[offset - self._begin : min(end, self._end) - self._begin]
            piece = piece[: len(piece) - len(piece) % unit]
            if not piece:
                return
            offset += len(piece)
            yield piece

    def _fetch(self, offset: int, size: int) -> None:
        self._begin = self._end = offset - offset % _PAGE
        wanted = max(_AHEAD, offset - self._begin + size)
        wanted = min(PIECE, wanted + -wanted % _PAGE)
        try:
            read = disk.preadv(self._descriptor, [self._buffer[:wanted]], self._begin)
        except OSError as error:
            if not self._direct or error.errno != errno.EINVAL:
                raise
            self._direct = disk.set_direct(self._descriptor, False)
            read = disk.preadv(self._descriptor, [self._buffer[:wanted]], self._begin)
        self._end = self._begin + read

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # None stay behind, so that checking takes no cache away from training.
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
