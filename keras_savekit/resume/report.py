"""The report on a resume: which checkpoint, where it resumes, and whether that is exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from keras_savekit.base.moment import Moment

Level = Literal["exact", "exact from the epoch's start", "position", "weights only"]
LEVELS: tuple[Level, ...] = get_args(Level)  # the best first


@dataclass(frozen=True, slots=True)
class Restored:
    """Where a training resumes, and whether the resume is exact.

    name: of the checkpoint.
    moment: position of the next batch.
    level: `exact`: as if training had never stopped. `exact from the epoch's start`: the
        batches of a started epoch are trained again. `position`: the order of the data, or
        what a callback remembered, is not known to be the same. `weights only`: the
        optimizer is not that of the checkpoint, or there is none.
    reasons: why the level is not `exact`, each with what to do about it.
    passed_over: the newer checkpoints that were skipped, each with the reason.
    """

    name: str
    moment: Moment
    level: Level
    reasons: tuple[str, ...]
    passed_over: tuple[str, ...]

    def __str__(self) -> str:
        now = self.moment
        head = f"resumed from {self.name} ({self.level}): epoch {now.epoch + 1}, "
        lines = [
            head + f"{now.batch} batches done, step {now.step}",
            *(f"  not exact: {reason}" for reason in self.reasons),
            *(f"  skipped {reason}" for reason in self.passed_over),
        ]
        return "\n".join(lines)


def worst(*levels: Level) -> Level:
    """Return the lowest of these levels."""
    return max(levels, key=LEVELS.index)
