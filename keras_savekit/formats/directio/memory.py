"""Memory that files are written from and read into past the page cache (`O_DIRECT`).

What is used again and again is in large pages where Linux has them
(`/sys/kernel/mm/transparent_hugepage`): a transfer then takes the kernel a quarter of
the processor's time, and the disk, which is given few long pieces instead of many short
ones, down to half the time (`docs/benchmarks.md`). What is used once is not: a virtual
machine may have to ask its host for large pages, while small ones are at hand.
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

PAGE = 4096
LARGE = 2 * 2**20


def page_aligned(size: int, *, large: bool = False) -> npt.NDArray[np.uint8]:
    """Fresh memory that begins at a page; nothing is there before it is touched.

    large: in large pages, as far as the system has them; of a size that is no multiple
        of theirs the rest takes one more.
    """
    whole = size + -size % LARGE + LARGE if large else max(size, PAGE)
    memory = mmap.mmap(-1, whole, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    begin = 0
    if large:
        with suppress(OSError):  # a kernel without: pages of the usual size will do
            memory.madvise(mmap.MADV_HUGEPAGE)
        begin = -np.frombuffer(memory, np.uint8).ctypes.data % LARGE
    return np.frombuffer(memory, np.uint8, size, begin)


def give_up(memory: npt.NDArray[np.uint8]) -> None:
    """Let the system have what `page_aligned` returned, as soon as it needs some.

    What is in it may be gone from now on. Whoever writes to it has it again, at no cost
    if nobody has taken it meanwhile (`MADV_FREE`, `man madvise`).
    """
    view: Any = memory.base
    with suppress(OSError):  # a kernel without: it stays as it is
        view.obj.madvise(mmap.MADV_FREE)
