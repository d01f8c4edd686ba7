"""A file's bytes as they are on the disk, not as the page cache has them.

The cache says nothing about what was written, and filling it costs a training beside
it several times what reading costs. So the cache is gone past where the file system
can (`O_DIRECT`, which reads whole pages to page-aligned memory), else asked to let go
of the file before and after.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from functools import partial
from types import TracebackType

import numpy as np
import xxhash

from keras_savekit.formats.directio.memory import PAGE, page_aligned
from keras_savekit.formats.directio.writer import PIECE
from keras_savekit.store import syscalls

_AHEAD = 256 * 1024  # read at once where less is asked for: the next is often behind it


class FileReader:
    """Reads ranges of one open file. A context manager.

    Raises OSError as the system does, of an error that came twice: once says nothing
    of what is there.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = page_aligned(PIECE, large=True).data
        self._begin = self._end = 0  # what of the file is in it
        self._direct = syscalls.set_direct(descriptor, True)
        # Dropping needs clean pages: true of published files, which are synced.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def pieces(
        self, offset: int, size: int, unit: int = 1, ahead: int = _AHEAD
    ) -> Iterator[memoryview]:
        """The bytes from `offset` on, each piece a multiple of `unit` bytes; fewer at the end.

        All lie in one buffer, each until the next is asked for. At least `ahead` bytes
        are read at once.
        """
        end = offset + size
        while offset < end:
            if not self._begin <= offset <= min(offset + unit, end) <= self._end:
                self._fetch(offset, end - offset, ahead)
            piece = self._buffer[offset - self._begin : min(end, self._end) - self._begin]
            piece = piece[: len(piece) - len(piece) % unit]
            if not piece:
                return
            offset += len(piece)
            yield piece

    def fill(self, offset: int, target: memoryview) -> int:
        """Read into `target`, without a copy if it is page-aligned; return how much there was."""
        done = 0
        if not offset % PAGE and not np.frombuffer(target, np.uint8).ctypes.data % PAGE:
            whole = len(target) - len(target) % PAGE
            while done < whole and not done % PAGE:
                read = self._read(target[done:whole], offset + done)
                if not read:
                    return done
                done += read
        for piece in self.pieces(offset + done, len(target) - done, ahead=0):
            target[done : done + len(piece)] = piece
            done += len(piece)
        return done

    def _fetch(self, offset: int, size: int, ahead: int) -> None:
        self._begin = self._end = offset - offset % PAGE
        wanted = max(ahead, offset - self._begin + size)
        wanted = min(PIECE, wanted + -wanted % PAGE)
        self._end += self._read(self._buffer[:wanted], self._begin)

    def _read(self, target: memoryview, offset: int) -> int:
        read = partial(syscalls.preadv, self._descriptor, [target], offset)
        try:
            return syscalls.retry_once(read)
        except OSError as error:
            if not self._direct or error.errno != errno.EINVAL:
                raise
        self._direct = syscalls.set_direct(self._descriptor, False)
        return syscalls.retry_once(read)

    def __enter__(self) -> FileReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # None stay behind, so that checking takes no cache away from training.
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


class RangeDigests:
    """Digests of parts of a file, taken on the pass that reads all of it.

    ranges: offset and size of each; of those that overlap, all but the first are left out.
    digests: xxh3_128, in hex, by range, of those that have gone by.
    """

    def __init__(self, ranges: Iterable[tuple[int, int]]) -> None:
        self._ranges = sorted(each for each in ranges if each[1])
        self.restart()

    def restart(self) -> None:
        """Before the first byte of the file, once more maybe."""
        self.digests: dict[tuple[int, int], str] = {}
        self._to_come = iter(self._ranges)
        self._at = self._begin = self._end = 0
        self._next()

    def update(self, piece: memoryview) -> None:
        """What follows in the file."""
        start, self._at = self._at, self._at + len(piece)
        while start < self._end and self._begin < self._at:
            self._digest.update(piece[max(0, self._begin - start) : self._end - start])
            if self._end > self._at:
                return
            self.digests[self._begin, self._end - self._begin] = self._digest.hexdigest()
            self._next()

    def _next(self) -> None:
        self._digest = xxhash.xxh3_128()
        past = self._end
        self._begin, self._end = next(
            ((begin, begin + size) for begin, size in self._to_come if begin >= past), (0, 0)
        )
