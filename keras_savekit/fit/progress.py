"""The position of a `fit`: the arithmetic of epoch, batch and step.

Pure: a value for each state, and one function for each hook that returns the next
state. It knows no Keras, no clock and no model, so tables of numbers can test it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from keras_savekit.base.moment import Moment


class Progress(NamedTuple):  # a frozen dataclass takes five times as long to replace, at each step
    """The position of a running `fit`.

    now: the moment, over all sessions.
    length: batches in an epoch; None while it is not known.
    known_to_keras: whether Keras knows the length too, and so ends epochs by itself.
    per_call: batches that one call of the train function takes (`steps_per_execution`).
    offset: batches of this epoch that an earlier session trained; Keras counts from there.
    fresh: whether no epoch of this session has begun.
    validated: whether this epoch has had a validation.
    cut_short: whether the training was stopped before the end of an epoch.
    updates_before: the optimizer's updates that this training did not make.
    """

    now: Moment
    length: int | None = None
    known_to_keras: bool = False
    per_call: int = 1
    offset: int = 0
    fresh: bool = True
    validated: bool = False
    cut_short: bool = False
    updates_before: int = 0

    def resume(self, now: Moment, length: int | None) -> Progress:
        """Continue at a checkpoint's moment; its length counts where none is known."""
        return self._replace(now=now, length=self.length or length)

    def begin_epoch(self, epoch: int, seconds: float) -> Progress:
        """Begin an epoch, counted from 0; a resumed one keeps its position."""
        begun = self._replace(offset=0, fresh=False, validated=False)
        if epoch == self.now.epoch:
            return begun._replace(offset=self.now.batch)
        return begun._replace(now=replace(self.now, epoch=epoch, batch=0, seconds=seconds))

    def end_call(self, begun: int, seconds: float) -> Progress:
        """End the call of the train function that began with batch `begun`, as Keras counts it.

        The last call of an epoch may take fewer batches than the others.
        """
        now = self.now
        done = self.offset + begun + self.per_call
        if self.length is not None:
            done = min(done, self.length)
        step = now.step + done - now.batch
        return self._replace(now=Moment(now.epoch, done, step, seconds, now.logs))

    def begin_validation(self) -> Progress:
        """Begin a validation: all batches of the epoch are done, unless it was cut short."""
        known = self if self.cut_short else self.learn_length()
        return known._replace(validated=True)

    def learn_length(self) -> Progress:
        """Take the batches of this epoch as its length, if the length was not known."""
        return self if self.length else self._replace(length=self.now.batch)

    def end_epoch(self, epoch: int, seconds: float) -> Progress:
        """End an epoch, counted from 0, its validation included. Its logs follow."""
        return self.learn_length()._replace(now=Moment(epoch + 1, 0, self.now.step, seconds))

    def with_logs(self, logs: Mapping[str, Any]) -> Progress:
        """Return the same position with its logs."""
        return self._replace(now=replace(self.now, logs=logs))

    def cut(self) -> Progress:
        """End the training within this epoch."""
        return self._replace(cut_short=True)

    def count_updates(self, updates: int) -> Progress:
        """Take the optimizer's count of updates as that of this moment's step."""
        return self._replace(updates_before=updates - self.now.step)

    def step_of(self, updates: int) -> int:
        """Return the step that the optimizer's count of updates means."""
        return updates - self.updates_before

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
        """Whether Keras would ask for one more batch at this epoch's end, and find none."""
        return bool(self.offset) or not self.known_to_keras
