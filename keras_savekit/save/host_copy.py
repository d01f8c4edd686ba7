"""Copy a snapshot's tensors into a buffer that is kept from save to save.

TensorFlow copies a variable at its next update if a snapshot still refers to its
tensor. The writing thread avoids that: it copies the tensors one by one while the
next forward pass runs, and releases each at once. The buffer's memory is mapped
before it is needed, because a copy that waits for the mapping is overtaken by the
update. Large tensors begin at a page, so that they can be written without a copy.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from keras_savekit.base.tensors import Array, Snapshot, Variable, as_array, in_host_memory
from keras_savekit.formats.directio.memory import PAGE, allocate_pages, release_pages
from keras_savekit.formats.directio.writer import PIECE
from keras_savekit.formats.dtypes import parse_dtype

_SMALL = 64 * 1024  # smaller tensors are written through a buffer anyway: 64 bytes are enough
_MORE = 2**20  # for the variables that metrics get in the first step


class HostBuffer:
    """Memory for the tensors of one snapshot.

    low: between two snapshots the operating system may reclaim the memory.
    """

    def __init__(self, *, low: bool = False) -> None:
        self._low = low
        self._kept: Array = np.empty(0, np.uint8)
        self._borrower: weakref.ref[Snapshot] | None = None
        self._mapping: threading.Thread | None = None
        self._copying = threading.Lock()

    def preallocate(self, variables: Sequence[Variable]) -> None:
        """Map the memory for `variables` on another thread; return at once."""
        if self._mapping is not None:
            return
        _, size = _places(enumerate(variables))
        self._mapping = threading.Thread(
            target=self._preallocate, args=(size + _MORE,), name="savekit-memory", daemon=True
        )
        self._mapping.start()

    def _preallocate(self, size: int) -> None:
        with suppress(OSError, MemoryError):  # a save without memory reports it
            self._grow(size)
            self._offer()

    def _grow(self, size: int) -> None:
        self._kept = np.empty(0, np.uint8)  # free the old memory first
        self._kept = _mapped_memory(size)

    def _offer(self) -> None:
        """Let the operating system reclaim the memory, if that was chosen."""
        if self._low:
            release_pages(self._kept)

    def _take_back(self, borrower: weakref.ref[Snapshot]) -> None:
        """Offer the memory when its snapshot is freed, on whichever thread that happens."""
        if self._copying.acquire(blocking=False):  # else the next snapshot has the memory
            try:
                if self._borrower is borrower:
                    self._offer()
            finally:
                self._copying.release()

    def copy_out(self, snapshot: Snapshot) -> None:
        """Replace the tensors of `snapshot` by copies, bit for bit, in host memory.

        Tensors that are in host memory already stay as they are while the buffer contains
        another snapshot that is not written yet. A snapshot in the buffer stays there.
        """
        with self._copying:
            self._copy_out(snapshot)

    def _copy_out(self, snapshot: Snapshot) -> None:
        lent = self._borrower is not None and self._borrower() is not None
        if lent and all(in_host_memory(tensor) for tensor in snapshot.tensors):
            return
        variables = snapshot.blueprint.variables
        places, size = _places(
            (position, variables[position])
            for position, tensor in enumerate(snapshot.tensors)
            if not isinstance(tensor, np.ndarray)  # it does not change
        )
        if self._mapping is not None:
            self._mapping.join()
        if lent:
            memory = allocate_pages(size)
        else:
            if len(self._kept) < size:
                self._grow(size)
            memory = self._kept
            self._borrower = weakref.ref(snapshot, self._take_back)
        for position, begin, end in _last_first(places, variables):
            variable = variables[position]
            copy = memory[begin:end].view(parse_dtype(variable.dtype)).reshape(variable.shape)
            _copy(snapshot.tensors[position], copy)
            snapshot.tensors[position] = copy  # releases the tensor


def _copy(tensor: Any, copy: Array) -> None:
    """Copy a tensor; from a device in pieces, so that the host needs no second copy of it."""
    if in_host_memory(tensor) or copy.nbytes <= PIECE or copy.ndim == 0:
        np.copyto(copy, as_array(tensor))
        return
    rows = max(1, PIECE // max(1, copy[0].nbytes))
    for row in range(0, len(copy), rows):
        if rows == 1:
            _copy(tensor[row], copy[row])
        else:
            np.copyto(copy[row : row + rows], as_array(tensor[row : row + rows]))


def _places(
    variables: Iterable[tuple[int, Variable]],
) -> tuple[list[tuple[int, int, int]], int]:
    """Return the position, begin and end of each variable, and the memory that all take."""
    places = []
    end = 0
    for position, variable in variables:
        size = math.prod(variable.shape) * parse_dtype(variable.dtype).itemsize
        begin = end + -end % (PAGE if size >= _SMALL else 64)
        end = begin + size
        places.append((position, begin, end))
    return places, end


def _last_first(
    places: Iterable[tuple[int, int, int]], variables: Sequence[Variable]
) -> list[tuple[int, int, int]]:
    """Sort for the next update: a step has the gradients of the last layers first."""
    many = Counter(variable.role for variable in variables)

    def share(place: tuple[int, int, int]) -> float:
        variable = variables[place[0]]
        return variable.index / many[variable.role]

    return sorted(places, key=share, reverse=True)


def _mapped_memory(size: int) -> Array:
    """Return new memory with every page mapped."""
    memory = allocate_pages(size, large=True)
    memory[::PAGE] = 0
    return memory
