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
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from keras_savekit.formats.dtypes import by_name
from keras_savekit.formats.reader import page_aligned
from keras_savekit.formats.snapshot import Array, Snapshot, Variable, as_array, in_host_memory
from keras_savekit.formats.stream import PAGE, PIECE

_SMALL = 64 * 1024  # what is written by way of a buffer anyway begins at the next 64 bytes
_MORE = 2**20  # for what a model gets in its first step: the variables of its metrics


class KeptMemory:
    """Memory for the tensors of one snapshot.

    low: keep none between saves, and none at all for tensors in the host's memory:
        these are then written from where they are.
    """

    def __init__(self, *, low: bool = False) -> None:
        self._low = low
        self._kept: Array = np.empty(0, np.uint8)
        self._borrower: weakref.ref[Snapshot] | None = None
        self._mapping: threading.Thread | None = None

    def reserve(self, variables: Sequence[Variable]) -> None:
        """Have memory for these ready soon; returns at once."""
        if self._low or self._mapping is not None:
            return
        _, size = _places(enumerate(variables))
        self._mapping = threading.Thread(
            target=self._reserve, args=(size + _MORE,), name="savekit-memory", daemon=True
        )
        self._mapping.start()

    def _reserve(self, size: int) -> None:
        with suppress(OSError, MemoryError):  # a save that finds none is told of
            self._grow(size)

    def _grow(self, size: int) -> None:
        self._kept = np.empty(0, np.uint8)  # give it back before there is more
        self._kept = _mapped(size)

    def stage(self, snapshot: Snapshot) -> None:
        """Replace the tensors of `snapshot` by copies, bit for bit, in the host's memory.

        Left as they are: tensors of the host while the memory holds another snapshot
        that is still to be written. A snapshot that is here already stays so.
        """
        free = self._borrower is None or self._borrower() is None
        elsewhere = any(not in_host_memory(tensor) for tensor in snapshot.tensors)
        if not elsewhere and (self._low or not free):
            return
        variables = snapshot.blueprint.variables
        places, size = _places(
            (position, variables[position])
            for position, tensor in enumerate(snapshot.tensors)
            if not isinstance(tensor, np.ndarray)  # nobody changes that
        )
        if self._mapping is not None:
            self._mapping.join()
        if self._low or not free:
            memory = _mapped(size)
        else:
            if len(self._kept) < size:
                self._grow(size)
            memory = self._kept
            self._borrower = weakref.ref(snapshot)
        for position, begin, end in places:
            variable = variables[position]
            copy = memory[begin:end].view(by_name(variable.dtype)).reshape(variable.shape)
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
        size = math.prod(variable.shape) * by_name(variable.dtype).itemsize
        begin = end + -end % (PAGE if size >= _SMALL else 64)
        end = begin + size
        places.append((position, begin, end))
    return places, end


def _mapped(size: int) -> Array:
    """Fresh memory, every page of it there.

    In pages of the usual size: large ones are hardly quicker to copy into, and a machine
    that is itself a guest of another may have to ask its host for each.
    """
    memory = page_aligned(size)
    memory[::PAGE] = 0
    return memory
