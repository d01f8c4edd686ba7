"""Measure what saving costs the training; `policy.overhead` decides what follows from it."""

from __future__ import annotations

import os
from collections.abc import Callable

from keras_savekit.policy.overhead import OverheadState, next_state


class OverheadMeter:
    """The cost of saving, and how many times longer the intervals are for it.

    budget: the part of the training's time that saving may take; None for any.
    clock: seconds that only run forward.

    Processor time of other threads counts by its part of the machine's cores.
    """

    def __init__(self, budget: float | None, clock: Callable[[], float]) -> None:
        self._budget = budget
        self._clock = clock
        self._began = clock()
        self._stalled = 0.0
        self._cores = len(os.sched_getaffinity(0))
        self._state = OverheadState()

    @property
    def limited(self) -> bool:
        """Whether there is a budget."""
        return self._budget is not None

    @property
    def interval_factor(self) -> int:
        """How many times longer intervals in steps and time are now."""
        return self._state.stretch

    def add_stall(self, seconds: float) -> None:
        """Note that the training waited for a save."""
        self._stalled += seconds

    def update(self, computed: float) -> bool:
        """Choose the interval factor again; return whether it has changed.

        computed: processor seconds that other threads have spent on saving.
        """
        if self._budget is None:
            return False
        before, trained = self._state, self._clock() - self._began
        spent = self._stalled + computed / self._cores
        self._state = next_state(before, self._budget, trained, spent)
        return self._state.stretch != before.stretch
