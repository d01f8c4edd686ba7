"""What every trigger is: a value without memory that gives a reason or None.

It looks at a tick; what must be remembered comes in with the tick, and `learn`
says what to add. The triggers themselves stand in `progress`, `measured` and
`requested`; `triggers` combines them and reads them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import model_serializer

from keras_savekit.base.moment import AT_ONCE, NEVER, Event, Horizon, Moment, Tick, nearest
from keras_savekit.errors import Problem
from keras_savekit.policy.fields import Value, WrongValueError, show, wrong

ALL_EVENTS: frozenset[Event] = frozenset(
    {"train_begin", "step", "epoch_end", "train_end", "exception"}
)


class Trigger(Value, ABC):
    """A condition over one tick.

    key: its word in YAML and in short strings.
    example: how it is written in YAML, for messages.
    spelling: its short string, empty if it has none.
    body: the field that is written directly under the key when it stands alone.
    """

    key: ClassVar[str]
    example: ClassVar[str]
    spelling: ClassVar[str] = ""
    body: ClassVar[str] = ""

    @abstractmethod
    def reason(self, tick: Tick) -> str | None:
        """Why a save is due at `tick`; None if it is not."""

    @abstractmethod
    def describe(self) -> str:
        """The condition, in English."""

    def parts(self) -> tuple[Trigger, ...]:
        """The triggers it is made of, if it combines others."""
        return ()

    def learn(self, tick: Tick) -> dict[str, float]:
        """What to remember after `tick`, whether or not a save is due."""
        learned: dict[str, float] = {}
        for each in self.parts():
            learned.update(each.learn(tick))
        return learned

    def metrics(self) -> frozenset[str]:
        """The metrics it looks at."""
        return frozenset().union(*(each.metrics() for each in self.parts()))

    def events(self) -> frozenset[Event]:
        """The events at which it can fire."""
        return ALL_EVENTS

    def horizon(self, now: Moment, stretch: int) -> Horizon:
        """Until when it has nothing to say at a batch's end.

        What combines others is silent as long as these are: nothing may fire when idle.
        """
        if self.parts():
            return nearest(each.horizon(now, stretch) for each in self.parts())
        return AT_ONCE if "step" in self.events() else NEVER

    def fires_when_idle(self) -> bool:
        """Whether it fires at a tick at which nothing happens."""
        return False

    def written(self) -> dict[str, Any]:
        """Its fields that differ from their defaults, under the names of YAML."""
        kind = type(self).model_fields
        return {
            kind[name].alias or name: value for name, value in self if value != kind[name].default
        }

    @classmethod
    def from_words(cls, words: list[str]) -> Trigger:
        """The trigger that the words after its key in a short string spell."""
        if words:
            raise wrong(f'"{cls.key}" stands alone, got {show(" ".join(words))} after it')
        return cls()

    @classmethod
    def from_body(cls, body: object) -> Trigger:
        """The trigger that is written under its key in YAML."""
        if not cls.model_fields:
            raise wrong(f"takes nothing after it: write {cls.key} alone, got {show(body)}")
        if cls.body and (len(cls.model_fields) == 1 or not isinstance(body, Mapping)):
            try:
                return cls(**{cls.body: body})
            except WrongValueError as error:
                inner = ((each, each.path.removeprefix(cls.body)) for each in error.problems)
                problems = tuple(Problem(path, each.message) for each, path in inner)
                raise WrongValueError(cls.key, problems) from error
        if not isinstance(body, Mapping):
            raise wrong(f"must be written as {cls.example}, got {show(body)}")
        return cls(**{str(key): value for key, value in body.items()})

    @model_serializer
    def _as_written(self) -> Any:
        fields = self.written()
        if self.body and set(fields) == {self.body}:
            return {self.key: fields[self.body]}
        return {self.key: fields} if type(self).model_fields else self.key
