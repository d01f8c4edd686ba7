"""One training in which some take turns at saving: what is compared lies seconds apart.

On a shared machine two processes that do the same differ by five to ten per cent, which
can be more than what they are to tell. Turns that follow each other differ by one or two.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import keras
from workloads import OfOneSession, computed, train

BATCH = 256  # of the standard model: twelve steps then take about two seconds on two cores


@dataclass(frozen=True, slots=True)
class Turns:
    """Who saves when.

    order: whose turn it is, each once; then each again, `rounds` times in all.
    saves: of a turn, `every` steps apart, the first just before the turn begins.
    before: saves before the first turn, so that what is made once is made.
    """

    order: Sequence[str]
    rounds: int
    saves: int
    every: int
    before: int

    def due(self, who: str) -> list[int]:
        """After how many steps somebody saves in its turns."""
        return [
            begin + self.every * save
            for begin, whose in zip(self._begins, [*self.order] * self.rounds, strict=False)
            if whose == who
            for save in range(self.saves)
        ]

    @property
    def due_before(self) -> list[int]:
        """After how many steps is saved before the first turn."""
        return [self.every * save for save in range(1, self.before + 1)]

    @property
    def _begins(self) -> list[int]:
        """After how many steps a turn begins; the last one is where all end."""
        lasts = self.every * self.saves
        first = self.every * (self.before + 1)
        return [first + lasts * turn for turn in range(len(self.order) * self.rounds + 1)]

    def train(self, model: keras.Model, kit: Any, others: Sequence[Any] = ()) -> dict[str, Any]:
        """Train beside all of them, each told when it saves.

        Returns what `workloads.train` does of the whole, of each turn "seconds WHO" and
        "computed WHO" (processor seconds, children's too), and "computed before", of the
        saves before.
        """
        begins = self._begins
        spent = Spent([self.every, *begins])
        found = train(
            model,
            kit,
            every=self.every,
            saves=begins[-1] // self.every,
            batch_size=BATCH,
            before=[spent, *others],
        )
        seconds = [sum(found["steps"][begin:end]) for begin, end in pairwise(begins)]
        before, *taken = (later - earlier for earlier, later in pairwise(spent.seconds))
        found["computed before"] = before
        for first, who in enumerate(self.order):
            found[f"seconds {who}"] = seconds[first :: len(self.order)]
            found[f"computed {who}"] = taken[first :: len(self.order)]
        for what in ("hooks", "steps", "stalls"):  # thousands, that nobody asks for
            del found[what]
        return found


class Spent(OfOneSession):
    """Processor seconds up to each of some steps, children's too."""

    def __init__(self, steps: Sequence[int]) -> None:
        super().__init__()
        self._steps = set(steps)
        self.seconds: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Note them before a step."""
        if batch in self._steps:
            self.seconds.append(computed())


def more(run: Mapping[str, Any], what: str, who: str, than: str) -> float:
    """How much more, as a share, a turn of one takes than one of another beside it; the median."""
    beside = zip(run[f"{what} {who}"], run[f"{what} {than}"], strict=True)
    return statistics.median(one / other - 1 for one, other in beside)
