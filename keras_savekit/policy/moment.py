"""Where training stands, and what happened since a trigger last looked.

Plain values, made by the session and read by triggers. They know neither Keras
nor a clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Event = Literal["step", "epoch_end", "train_end", "exception"]


@dataclass(frozen=True, slots=True)
class Moment:
    """A position in training.

    epoch: epochs finished, which is also the index of the epoch under way.
    batch: batches finished in the epoch under way; 0 at the end of an epoch.
    step: optimizer updates since training began, over all sessions.
    seconds: time trained, summed over interruptions.
    logs: the latest logs Keras reported, metric name to value.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    logs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tick:
    """The stretch between two moments: what a trigger looks at.

    event: what Keras reported at `now`. A batch that ends an epoch is reported
        once, at the epoch's end, when the epoch's length is known.
    memory: what triggers have learned so far (best values); see `decide`.
    """

    before: Moment
    now: Moment
    event: Event
    memory: Mapping[str, float] = field(default_factory=dict)
