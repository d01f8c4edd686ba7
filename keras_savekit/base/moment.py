"""Describe the position of a training, and what happened since the triggers were last evaluated.

These are plain values. The session makes them and triggers read them. This module uses
neither Keras nor a clock.
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


def _limit_names(value: Any) -> Any:
    # Before the values are validated: a hostile file would cause one error for each.
    if isinstance(value, Mapping) and len(value) > MOST_NAMES:
        raise ValueError(f"has {len(value)} names, more than {MOST_NAMES}")
    return value


def _logs_schema(_: Any, __: Any) -> core_schema.CoreSchema:
    return core_schema.no_info_plain_validator_function(read_logs)


Count = Annotated[int, Field(ge=0, lt=2**63)]
Few = BeforeValidator(_limit_names)
Event = Literal["train_begin", "step", "validation", "epoch_end", "train_end", "exception"]


@dataclass(frozen=True, slots=True)
class Moment:
    """A position in training.

    epoch: finished epochs, which is also the index of the current epoch.
    batch: finished batches of the current epoch; 0 at the end of an epoch.
    step: optimizer updates since training began, in all sessions.
    seconds: training time of all sessions.
    logs: the latest logs that Keras reported, metric name to value; see `base.logs`.
    """

    epoch: Count = 0
    batch: Count = 0
    step: Count = 0
    seconds: float = 0.0
    logs: Annotated[Logs, GetPydanticSchema(_logs_schema), Few] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExternalRequests:
    """Requests for saves that do not come from the training.

    signals: names of the received signals, such as SIGTERM, until each plan that waits for
        one has saved.
    acknowledged: pairs of the name of a plan and a signal for which this plan has saved.
    files: names of the files in the run's directory that request a save.
    wall: the current time in seconds since 1970.
    deadlines: text of a policy's `at` to its time in seconds since 1970.
    """

    signals: frozenset[str] = frozenset()
    acknowledged: frozenset[tuple[str, str]] = frozenset()
    files: frozenset[str] = frozenset()
    wall: float = 0.0
    deadlines: Mapping[str, float] = field(default_factory=dict)


NO_REQUESTS = ExternalRequests()


@dataclass(frozen=True, slots=True)
class Horizon:
    """Until when triggers need no evaluation at the end of a batch, unless a request comes.

    Before this step and before this training time, nothing is due and no trigger has to
    update its memory.
    """

    step: float = math.inf
    seconds: float = math.inf

    def is_ahead_of(self, now: Moment) -> bool:
        """Whether `now` is before the horizon."""
        return now.step < self.step and now.seconds < self.seconds


NEVER = Horizon()
AT_ONCE = Horizon(0, 0)


def nearest(horizons: Iterable[Horizon]) -> Horizon:
    """Return the horizon that is reached first, in each of both units."""
    step = seconds = math.inf
    for horizon in horizons:
        step, seconds = min(step, horizon.step), min(seconds, horizon.seconds)
    return Horizon(step, seconds)


@dataclass(frozen=True, slots=True)
class Tick:
    """The interval between two moments, for which triggers are evaluated.

    event: what Keras reported at `now`. A batch that ends an epoch is reported once, as the
        end of the epoch, when the epoch's length is known. During a validation both moments
        are equal: only requests can make a save due.
    memory: what triggers remember, such as best values; see `policy.plan.decide`.
    requests: requests that do not come from Keras.
    interval_factor: how many times longer the intervals in steps and time currently are,
        since saving costs more than it may; see `policy.overhead`.
    """

    before: Moment
    now: Moment
    event: Event
    memory: Mapping[str, float] = field(default_factory=dict)
    requests: ExternalRequests = NO_REQUESTS
    interval_factor: int = 1

    def for_plan(self, plan: str) -> Tick:
        """Return the same tick without the signals for which this plan has saved."""
        requests = self.requests
        if not requests.acknowledged:
            return self
        waiting = frozenset(
            name for name in requests.signals if (plan, name) not in requests.acknowledged
        )
        requests = replace(requests, signals=waiting, acknowledged=frozenset())
        return replace(self, requests=requests)
