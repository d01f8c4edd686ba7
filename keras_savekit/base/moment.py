"""The position of a training, and what happened since a trigger last looked.

Plain values, made by the session and read by triggers. They know neither Keras
nor a clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, GetPydanticSchema
from pydantic_core import core_schema

from keras_savekit.base.logs import Logs, read_logs

MOST_NAMES = 10_000


def _few(value: Any) -> Any:
    # Before each is looked at: of a hostile file, each would be an error of its own.
    if isinstance(value, Mapping) and len(value) > MOST_NAMES:
        raise ValueError(f"has {len(value)} names, more than {MOST_NAMES}")
    return value


def _logs_schema(_: Any, __: Any) -> core_schema.CoreSchema:
    return core_schema.no_info_plain_validator_function(read_logs)


Count = Annotated[int, Field(ge=0, lt=2**63)]
Few = BeforeValidator(_few)
Event = Literal["train_begin", "step", "validation", "epoch_end", "train_end", "exception"]


@dataclass(frozen=True, slots=True)
class Moment:
    """A position in training.

    epoch: epochs finished, which is also the index of the epoch under way.
    batch: batches finished in the epoch under way; 0 at the end of an epoch.
    step: optimizer updates since training began, over all sessions.
    seconds: time trained, summed over interruptions.
    logs: the latest logs Keras reported, metric name to value; see `logs`.
    """

    epoch: Count = 0
    batch: Count = 0
    step: Count = 0
    seconds: float = 0.0
    logs: Annotated[Logs, GetPydanticSchema(_logs_schema), Few] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExternalRequests:
    """What came from outside the training since the last tick.

    signals: names of the signals that were received, such as SIGTERM, until every
        plan that waits for one has saved.
    served: pairs of a plan's name and a signal that this plan has saved for.
    files: names of the files in the run's directory that request a save.
    wall: seconds since 1970.
    deadlines: what a policy's `at` means, in seconds since 1970.
    """

    signals: frozenset[str] = frozenset()
    served: frozenset[tuple[str, str]] = frozenset()
    files: frozenset[str] = frozenset()
    wall: float = 0.0
    deadlines: Mapping[str, float] = field(default_factory=dict)


NOTHING = ExternalRequests()


@dataclass(frozen=True, slots=True)
class Horizon:
    """Until when a batch's end needs no look, as long as nothing comes from outside.

    Before this step and before so many seconds trained nothing is due, and
    nothing is to be learned.
    """

    step: float = math.inf
    seconds: float = math.inf

    def beyond(self, now: Moment) -> bool:
        """Whether it is still ahead of `now`."""
        return now.step < self.step and now.seconds < self.seconds


NEVER = Horizon()
AT_ONCE = Horizon(0, 0)


def nearest(horizons: Iterable[Horizon]) -> Horizon:
    """The first of several to come, in both units."""
    step = seconds = math.inf
    for horizon in horizons:
        step, seconds = min(step, horizon.step), min(seconds, horizon.seconds)
    return Horizon(step, seconds)


@dataclass(frozen=True, slots=True)
class Tick:
    """The stretch between two moments: what a trigger looks at.

    event: what Keras reported at `now`. A batch that ends an epoch is reported
        once, at the epoch's end, when the epoch's length is known. In a validation
        no time passes: only what comes from outside can fire.
    memory: what triggers have learned so far (best values); see `decide`.
    outside: what did not come from Keras.
    stretch: how many times longer the intervals in steps and time are for now,
        because saving costs more than it may; see `governor`.
    """

    before: Moment
    now: Moment
    event: Event
    memory: Mapping[str, float] = field(default_factory=dict)
    outside: ExternalRequests = NOTHING
    stretch: int = 1

    def seen_by(self, plan: str) -> Tick:
        """The same for one plan: without the signals that it has saved for."""
        outside = self.outside
        if not outside.served:
            return self
        waiting = frozenset(name for name in outside.signals if (plan, name) not in outside.served)
        return replace(self, outside=replace(outside, signals=waiting, served=frozenset()))
