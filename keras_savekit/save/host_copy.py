"""Copies of a snapshot's tensors in memory that is kept from save to save.

What a snapshot refers to, TensorFlow copies at its next update. Copied out by the
writing thread while the next forward pass runs, into memory that is already
mapped, tensor by tensor, each let go at once, there is nothing left to copy.
Tensors begin at a page, so that they can be written from where they lie. Memory
is mapped before it is needed: while the first copy waited for that, updates would
overtake it.
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

_SMALL = 64 * 1024  # what is written by way of a buffer anyway begins at the next 64 bytes
_MORE = 2**20  # for what a model gets in its first step: the variables of its metrics


class HostBuffer:
    """Memory for the tensors of one snapshot.

    low: between two snapshots the system may have it, should it need some.
    """

    def __init__(self, *, low: bool = False) -> None:
        self._low = low
        self._kept: Array = np.empty(0, np.uint8)
        self._borrower: weakref.ref[Snapshot] | None = None
        self._mapping: threading.Thread | None = None
        self._staging = threading.Lock()

    def reserve(self, variables: Sequence[Variable]) -> None:
        """Have memory for these ready soon; returns at once."""
        if self._mapping is not None:
            return
        _, size = _places(enumerate(variables))
        self._mapping = threading.Thread(
            target=self._reserve, args=(size + _MORE,), name="savekit-memory", daemon=True
        )
        self._mapping.start()

    def _reserve(self, size: int) -> None:
        with suppress(OSError, MemoryError):  # a save that finds none is told of
            self._grow(size)
            self._rest()

    def _grow(self, size: int) -> None:
        self._kept = np.empty(0, np.uint8)  # give it back before there is more
        self._kept = _mapped(size)

    def _rest(self) -> None:
        if self._low:
            release_pages(self._kept)

    def _returned(self, borrower: weakref.ref[Snapshot]) -> None:
        """Nobody needs that snapshot any more; whichever thread notices."""
        if self._staging.acquire(blocking=False):  # else the next one has it already
            try:
                if self._borrower is borrower:
                    self._rest()
            finally:
                self._staging.release()

    def stage(self, snapshot: Snapshot) -> None:
        """Replace the tensors of `snapshot` by copies, bit for bit, in the host's memory.

        Left as they are: tensors of the host while the memory that is kept holds another
        snapshot that is still to be written. A snapshot that is here already stays so.
        """
        with self._staging:
            self._stage(snapshot)

    def _stage(self, snapshot: Snapshot) -> None:
        lent = self._borrower is not None and self._borrower() is not None
        if lent and all(in_host_memory(tensor) for tensor in snapshot.tensors):
            return
        variables = snapshot.blueprint.variables
        places, size = _places(
            (position, variables[position])
            for position, tensor in enumerate(snapshot.tensors)
            if not isinstance(tensor, np.ndarray)  # nobody changes that
        )
        if self._mapping is not None:
            self._mapping.join()
        if lent:
            memory = allocate_pages(size)
        else:
            if len(self._kept) < size:
                self._grow(size)
            memory = self._kept
            self._borrower = weakref.ref(snapshot, self._returned)
        for position, begin, end in _last_first(places, variables):
            variable = variables[position]
            copy = memory[begin:end].view(parse_dtype(variable.dtype)).reshape(variable.shape)
            _copy(snapshot.tensors[position], copy)
            snapshot.tensors[position] = copy  # lets the tensor go


def _copy(tensor: Any, copy: Array) -> None:
    """Copy a tensor; from a device in pieces, so that no second one is needed in the host."""
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
    """Position, begin and end of each, and how much memory all take."""
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
    """In the order of the next update: a step has the gradients of the last layers first."""
    many = Counter(variable.role for variable in variables)

    def share(place: tuple[int, int, int]) -> float:
        variable = variables[place[0]]
        return variable.index / many[variable.role]

    return sorted(places, key=share, reverse=True)


def _mapped(size: int) -> Array:
    """Fresh memory, every page of it there."""
    memory = allocate_pages(size, large=True)
    memory[::PAGE] = 0
    return memory
