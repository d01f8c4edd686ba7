"""What every trigger is: a value without memory that gives a reason or None.

It looks at a tick; what must be remembered comes in with the tick, and `learn`
says what to add. A new trigger is one class in `schedule`, `metric`, `external` or
`combine`, or in a module of its own that `registry` imports, marked `@register`.
Reading triggers from text is `registry`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from pydantic import model_serializer

from keras_savekit.base.moment import AT_ONCE, NEVER, Event, Horizon, Moment, Tick, nearest
from keras_savekit.base.text import show
from keras_savekit.errors import Problem
from keras_savekit.policy.fields import Ranking, Value, WrongValueError, wrong

ALL_EVENTS: frozenset[Event] = frozenset(
    {"train_begin", "step", "epoch_end", "train_end", "exception"}
)


@dataclass(frozen=True, slots=True)
class Length:
    """How long a training is, for a forecast.

    step_seconds: how long a step takes; None if it is not known.
    """

    steps_per_epoch: int
    epochs: int
    step_seconds: float | None = None

    @property
    def steps(self) -> int:
        """All of them."""
        return self.steps_per_epoch * self.epochs


@dataclass(frozen=True, slots=True)
class Requests:
    """What a trigger waits for from outside the training.

    signals: names such as SIGTERM.
    grace: seconds from one of these signals to the kill, if they are known.
    files: names of files in the run's directory.
    deadlines: by the text that the policy has for it, seconds since 1970; None where
        the text leads to no time.
    """

    signals: tuple[str, ...] = ()
    grace: float | None = None
    files: tuple[str, ...] = ()
    deadlines: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Response:
    """What is to be done once the save of a trigger that fired is under way.

    signals, files: those that it answers.
    stop: whether training stops.
    exit: whether the process ends after that.
    """

    signals: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()
    stop: bool = False
    exit: bool = False


class Trigger(Value, ABC):
    """A condition over one tick. Triggers combine with `|`, `&` and `~`.

    key: its word in YAML and in short strings.
    example: how it is written in YAML, for messages.
    spelling: its short string, empty if it has none.
    body: the field that is written directly under the key when it is the only one.
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
        for part in self.parts():
            learned.update(part.learn(tick))
        return learned

    def metrics(self) -> frozenset[str]:
        """The metrics it looks at."""
        return frozenset().union(*(part.metrics() for part in self.parts()))

    def events(self) -> frozenset[Event]:
        """The events at which it can fire."""
        return ALL_EVENTS

    def horizon(self, now: Moment, stretch: int) -> Horizon:
        """Until when it has nothing to say at a batch's end.

        What combines others is silent as long as these are: nothing may fire when idle.
        """
        if self.parts():
            return nearest(part.horizon(now, stretch) for part in self.parts())
        return AT_ONCE if "step" in self.events() else NEVER

    def fires_when_idle(self) -> bool:
        """Whether it fires at a tick at which nothing happens."""
        return False

    def ranking(self) -> Ranking | None:
        """By what it ranks moments, if it does."""
        return None

    def foreseen(self, length: Length) -> Iterable[int] | None:
        """Return the steps at which it fires, besides the ends of epochs and of training.

        None if that cannot be known beforehand.
        """
        return None

    def requests(self, environ: Mapping[str, str]) -> Requests:
        """Return what it waits for from outside the training."""
        return Requests()

    def response(self, tick: Tick) -> Response:
        """Return what to do when its save at `tick` is under way."""
        return Response()

    def __or__(self, other: Trigger) -> Trigger:
        return _combined("any", self, other)

    def __and__(self, other: Trigger) -> Trigger:
        return _combined("all", self, other)

    def __invert__(self) -> Trigger:
        return KINDS["not"](**{KINDS["not"].body: self})

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
            raise wrong(f'"{cls.key}" takes no more words, got {show(" ".join(words))} after it')
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
                inner = (
                    (problem, problem.path.removeprefix(cls.body)) for problem in error.problems
                )
                problems = tuple(Problem(path, problem.message) for problem, path in inner)
                raise WrongValueError(cls.key, problems) from None
        if not isinstance(body, Mapping):
            raise wrong(f"must be written as {cls.example}, got {show(body)}")
        return cls(**{str(key): value for key, value in body.items()})

    @model_serializer
    def _as_written(self) -> Any:
        fields = self.written()
        if self.body and set(fields) == {self.body}:
            return {self.key: fields[self.body]}
        return {self.key: fields} if type(self).model_fields else self.key


def leaves(triggers: Iterable[Trigger]) -> Iterator[Trigger]:
    """Yield the triggers that are not made of others, in order."""
    for trigger in triggers:
        parts = trigger.parts()
        if parts:
            yield from leaves(parts)
        else:
            yield trigger


KINDS: dict[str, type[Trigger]] = {}
T = TypeVar("T", bound=type[Trigger])


def register(kind: T) -> T:
    """Make a trigger known by its key to YAML, short strings, the schema and the docs' tests."""
    KINDS[kind.key] = kind
    return kind


def _combined(key: str, one: Trigger, other: Trigger) -> Trigger:
    """Combine two triggers; `a | b | c` is one of three parts, not of two."""
    if not isinstance(other, Trigger):
        return NotImplemented
    kind = KINDS[key]
    parts = (part for side in (one, other) for part in _parts_of(side, kind))
    return kind(**{kind.body: tuple(parts)})


def _parts_of(trigger: Trigger, kind: type[Trigger]) -> tuple[Trigger, ...]:
    return trigger.parts() if type(trigger) is kind else (trigger,)
