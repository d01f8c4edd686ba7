"""The names of the checkpoints that exist or are being saved, and the name of the next one.

Three threads use it; every change is one operation on a set.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from keras_savekit.store.naming import CheckpointName


class SavedNames:
    """The names in use in one run.

    names: of the checkpoints that earlier sessions left.
    verified: those of them that are known to be good.
    """

    def __init__(self, names: Iterable[str], verified: Collection[str]) -> None:
        self._names = set(names)
        self._unproven = self._names - set(verified)  # a resume may have skipped them

    def choose(self, step: int, plan: str, *, may_differ: bool) -> tuple[str, str | None]:
        """Return the name for a save, and the checkpoint of the same step to compare it with.

        may_differ: whether the weights may have changed since the step was saved.

        The save is needless if the name is in use, or if the weights are equal.
        """
        first = CheckpointName(step, plan)
        name, second = str(first), str(replace(first, number=2))
        if name in self._unproven:  # it may be damaged; it is neither replaced nor relied on
            return second, None
        if name in self._names and may_differ:
            return second, name
        return name, None

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def add(self, name: str) -> None:
        """Note that a checkpoint is being saved."""
        self._names.add(name)

    def discard(self, name: str) -> None:
        """Note that a checkpoint is gone, or was not saved."""
        self._names.discard(name)

    def confirm(self, name: str) -> None:
        """Note that a checkpoint is good."""
        self._unproven.discard(name)
