"""Where a `fit` is: the arithmetic of epoch, batch and step.

Pure: a value for each state, and what each hook makes of it. Knows no Keras, no clock
and no model, so that tables of numbers can test it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from keras_savekit.base.moment import Moment


@dataclass(frozen=True, slots=True)
class Progress:
    """The position of a running `fit`.

    now: the moment, over all sessions.
    length: batches in an epoch; None while it is not known.
    known_to_keras: whether Keras knows the length too, and so ends epochs by itself.
    per_call: batches that one call of the train function takes (`steps_per_execution`).
    offset: batches of this epoch that an earlier session trained; Keras counts from there.
    begun: the first batch of the call under way, as Keras counts it.
    """

    now: Moment
    length: int | None = None
    known_to_keras: bool = False
    per_call: int = 1
    offset: int = 0
    begun: int = 0

    def begin_epoch(self, epoch: int, seconds: float) -> Progress:
        """An epoch, counted from 0, begins; the one that was resumed keeps its position."""
        if epoch == self.now.epoch:
            return replace(self, offset=self.now.batch, begun=0)
        now = replace(self.now, epoch=epoch, batch=0, seconds=seconds)
        return replace(self, now=now, offset=0, begun=0)

    def begin_call(self, batch: int) -> Progress:
        """A call of the train function begins with this batch, as Keras counts it."""
        return replace(self, begun=batch)

    def end_call(self, seconds: float, logs: Mapping[str, Any]) -> Progress:
        """The call under way is done; the last of an epoch may take fewer batches."""
        done = self.offset + self.begun + self.per_call
        if self.length is not None:
            done = min(done, self.length)
        step = self.now.step + done - self.now.batch
        return replace(self, now=Moment(self.now.epoch, done, step, seconds, logs))

    def learn_length(self) -> Progress:
        """All batches of the epoch are done: now its length is known, if it was not."""
        return self if self.length else replace(self, length=self.now.batch)

    def end_epoch(self, epoch: int, seconds: float, logs: Mapping[str, Any]) -> Progress:
        """The epoch, counted from 0, has ended, its validation included."""
        now = Moment(epoch + 1, 0, self.now.step, seconds, logs)
        return replace(self.learn_length(), now=now)

    @property
    def at_epochs_end(self) -> bool:
        """Whether all batches of the epoch are done."""
        return self.now.batch == self.length

    @property
    def nothing_left_in_epoch(self) -> bool:
        """Whether an earlier session trained all batches of this epoch."""
        return bool(self.offset) and self.offset == self.length

    @property
    def ends_without_keras(self) -> bool:
        """Whether Keras would ask for one batch more at this epoch's end, and find none."""
        return bool(self.offset) or not self.known_to_keras
