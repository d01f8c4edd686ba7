"""Allocate memory for reading and writing without the page cache (`O_DIRECT`).

Memory that is used many times is in large pages if Linux has them
(`/sys/kernel/mm/transparent_hugepage`). A transfer then needs a quarter of the processor
time, and as little as half the disk time, since the disk gets few long pieces instead of
many short ones (`docs/benchmarks.md`). Memory that is used once is in usual pages: a virtual
machine may have to request large pages from its host.
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

PAGE = 4096
LARGE = 2 * 2**20


def allocate_pages(size: int, *, large: bool = False) -> npt.NDArray[np.uint8]:
    """Allocate memory that begins at a page. The system provides each page on first use.

    large: use large pages if the system has them. The size is rounded up to whole ones.
    """
    whole = size + -size % LARGE + LARGE if large else max(size, PAGE)
    memory = mmap.mmap(-1, whole, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    begin = 0
    if large:
        with suppress(OSError):  # the kernel has no large pages: use the usual ones
            memory.madvise(mmap.MADV_HUGEPAGE)
        begin = -np.frombuffer(memory, np.uint8).ctypes.data % LARGE
    return np.frombuffer(memory, np.uint8, size, begin)


def release_pages(memory: npt.NDArray[np.uint8]) -> None:
    """Allow the system to reclaim memory from `allocate_pages` when it needs some.

    The content may be lost from now on. Writing to the memory makes it usable again, at no
    cost if the system did not reclaim it (`MADV_FREE`, `man madvise`).
    """
    view: Any = memory.base
    with suppress(OSError):  # the kernel does not support it: keep the memory
        view.obj.madvise(mmap.MADV_FREE)
