"""Read a file's bytes from the disk, not from the page cache.

The page cache does not show what is on the disk, and filling it slows down a training
several times as much as reading does. So files are read with `O_DIRECT`, which transfers
whole pages to page-aligned memory. If the file system does not support that, the file is
dropped from the cache before and after.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from functools import partial
from types import TracebackType

import numpy as np
import xxhash

from keras_savekit.formats.directio.memory import PAGE, allocate_pages
from keras_savekit.formats.directio.writer import PIECE
from keras_savekit.store import syscalls

_AHEAD = 256 * 1024  # bytes to read at least: the next request is often for what follows


class FileReader:
    """Reads ranges of one open file. A context manager.

    Each failing call is tried twice. Raises the OSError of the second try.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = allocate_pages(PIECE, large=True).data
        self._begin = self._end = 0  # the range of the file that is in the buffer
        self._direct = syscalls.set_direct(descriptor, True)
        # Only clean pages can be dropped. Published files are synced, so all of theirs are.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def pieces(
        self, offset: int, size: int, unit: int = 1, ahead: int = _AHEAD
    ) -> Iterator[memoryview]:
        """Yield `size` bytes from `offset` on, in pieces that are multiples of `unit` bytes.

        Fewer bytes are yielded if the file ends before. A piece is valid until the next one
        is requested. Each read takes at least `ahead` bytes.
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
        """Read into `target`, without a copy if it is page-aligned; return how many bytes."""
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
        # Leave no pages behind, so that the cache is free for the training.
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


class RangeDigests:
    """Computes digests of ranges of a file while another reader goes through all of it.

    ranges: offset and size of each. If ranges overlap, only the first of them is digested.
    digests: range to xxh3_128, in hex, of the ranges that were complete so far.
    """

    def __init__(self, ranges: Iterable[tuple[int, int]]) -> None:
        self._ranges = sorted((begin, size) for begin, size in ranges if size)
        self.restart()

    def restart(self) -> None:
        """Start over, before the first byte of the file."""
        self.digests: dict[tuple[int, int], str] = {}
        self._remaining = iter(self._ranges)
        self._at = self._begin = self._end = 0
        self._next()

    def update(self, piece: memoryview) -> None:
        """Take the next piece of the file."""
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
            ((begin, begin + size) for begin, size in self._remaining if begin >= past), (0, 0)
        )
