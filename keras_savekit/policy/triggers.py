"""When a save is due: every trigger, and how triggers combine.

A trigger is a value without memory. It looks at a tick and returns a reason or
None; what must be remembered comes in with the tick, and `learn` says what to
add. A new trigger is a class with its YAML key, and an entry in KINDS.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, model_serializer, model_validator

from keras_savekit.errors import Problem
from keras_savekit.policy.moment import Event, Tick
from keras_savekit.policy.value import (
    UNKNOWN_KEY,
    Mode,
    Number,
    Text,
    Value,
    Whole,
    WrongValueError,
    number_text,
    plural,
    read_each,
    show,
    suggest,
    wrong,
)

ALL_EVENTS: frozenset[Event] = frozenset({"step", "epoch_end", "train_end", "exception"})


class Trigger(Value, ABC):
    """A condition over one tick.

    key: its word in YAML and in short strings.
    example: how it is written in YAML, for messages.
    spelling: its short string, empty if it has none.
    body: the field that is written directly under the key, if one is.
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

    def learn(self, tick: Tick) -> dict[str, float]:
        """What to remember after `tick`."""
        return {}

    def metrics(self) -> frozenset[str]:
        """The metrics it looks at."""
        return frozenset()

    def events(self) -> frozenset[Event]:
        """The events at which it can fire."""
        return ALL_EVENTS

    def fires_when_idle(self) -> bool:
        """Whether it fires at a tick at which nothing happens."""
        return False

    @classmethod
    def from_words(cls, words: list[str]) -> Trigger:
        """The trigger that the words after its key in a short string spell."""
        if words:
            raise wrong(f'"{cls.key}" stands alone, got {show(" ".join(words))} after it')
        return cls()

    @classmethod
    def from_body(cls, body: object) -> Trigger:
        """The trigger that is written under its key in YAML."""
        if cls.body:
            try:
                return cls(**{cls.body: body})
            except WrongValueError as error:
                inner = ((each, each.path.removeprefix(cls.body)) for each in error.problems)
                problems = tuple(Problem(path, each.message) for each, path in inner)
                raise WrongValueError(cls.key, problems) from error
        if not isinstance(body, Mapping):
            raise wrong(f"must be written as {cls.example}, got {show(body)}")
        return cls(**body)

    @model_serializer
    def _as_written(self) -> Any:
        if self.body:
            return {self.key: getattr(self, self.body)}
        fields = {name: value for name, value in self if value != _default(self, name)}
        return {self.key: fields} if type(self).model_fields else self.key


def _default(value: Value, name: str) -> object:
    return type(value).model_fields[name].default


class Every(Trigger):
    """Each time a multiple of one unit is crossed, however far a tick jumps.

    Epochs count when finished. Time is time trained, summed over interruptions.
    """

    key: ClassVar[str] = "every"
    example: ClassVar[str] = "{every: {steps: 200}}"
    spelling: ClassVar[str] = "every 200 steps"

    steps: Whole | None = Field(None, description="optimizer steps between saves")
    epochs: Whole | None = Field(None, description="epochs between saves")
    seconds: Annotated[Number, Field(gt=0)] | None = Field(None, description="seconds trained")
    minutes: Annotated[Number, Field(gt=0)] | None = Field(None, description="minutes trained")
    hours: Annotated[Number, Field(gt=0)] | None = Field(None, description="hours trained")

    @model_validator(mode="after")
    def _one_unit(self) -> Every:
        given = [name for name, value in self if value is not None]
        if len(given) != 1:
            raise wrong(
                f"needs exactly one of {', '.join(Every.model_fields)};"
                f" got {' and '.join(given) or 'none'}"
            )
        return self

    def reason(self, tick: Tick) -> str | None:
        """`every 200 steps`, if a multiple lies between the two moments."""
        before, now = tick.before, tick.now
        if self.steps is not None:
            crossed = before.step // self.steps < now.step // self.steps
        elif self.epochs is not None:
            crossed = before.epoch // self.epochs < now.epoch // self.epochs
        else:
            seconds = self._seconds()
            crossed = before.seconds // seconds < now.seconds // seconds
        return self.describe() if crossed else None

    def _seconds(self) -> float:
        if self.seconds is not None:
            return self.seconds
        if self.minutes is not None:
            return self.minutes * 60
        return (self.hours or 0) * 3600

    def describe(self) -> str:
        """`every 200 steps`; reads back as the same trigger."""
        unit, count = next((unit, count) for unit, count in self if count is not None)
        return f"every {unit[:-1] if count == 1 else plural(count, unit[:-1])}"

    def events(self) -> frozenset[Event]:
        """Steps pass only in batches, epochs only at their end, time always."""
        if self.epochs is not None:
            return frozenset({"epoch_end"})
        return ALL_EVENTS if self.steps is None else frozenset({"step", "epoch_end"})

    @classmethod
    def from_words(cls, words: list[str]) -> Trigger:
        """`200 steps`, `epoch`, `1.5 hours`."""
        if len(words) == 1:
            words = ["1", *words]
        if len(words) != 2:
            raise wrong(f'must be written like "every 200 steps", got {show(" ".join(words))}')
        count, unit = words
        units = list(cls.model_fields)
        if unit in units or f"{unit}s" in units:
            return cls(**{unit if unit in units else f"{unit}s": count})
        raise wrong(f"unknown unit {show(unit)}; {suggest(unit, units)}")


class Improved(Trigger):
    """At an epoch's end, when a metric is better than ever before.

    A tie is no improvement. Only finite values count: a NaN or an infinity
    neither improves nor is remembered, since nothing could be better after it.
    The best is the best seen, saved or not.
    """

    key: ClassVar[str] = "improved"
    example: ClassVar[str] = "{improved: {metric: val_loss, mode: min}}"
    spelling: ClassVar[str] = "improved val_loss min"

    metric: Text = Field(description="the name of a metric, such as val_loss")
    mode: Mode = Field(description="which way is better, min or max; it is never guessed")
    min_delta: Annotated[Number, Field(ge=0)] = Field(
        0.0, description="how much better counts as better"
    )

    @property
    def memory_key(self) -> str:
        """Where the best value stands in the run's memory."""
        return f"{self.metric} {self.mode} {number_text(self.min_delta)}"

    def reason(self, tick: Tick) -> str | None:
        """`val_loss improved from 0.4 to 0.3`."""
        value = self._improvement(tick)
        if value is None:
            return None
        best = tick.memory.get(self.memory_key)
        if best is None:
            return f"{self.metric} has its first value, {value:.6g}"
        old, new = f"{best:.6g}", f"{value:.6g}"
        if old == new:
            old, new = number_text(best), number_text(value)
        return f"{self.metric} improved from {old} to {new}"

    def learn(self, tick: Tick) -> dict[str, float]:
        """The new best, if this tick has one."""
        value = self._improvement(tick)
        return {} if value is None else {self.memory_key: value}

    def _improvement(self, tick: Tick) -> float | None:
        if tick.event != "epoch_end":
            return None
        logged = tick.now.logs.get(self.metric)
        if logged is None or not math.isfinite(logged):
            return None
        value = float(logged)
        best = tick.memory.get(self.memory_key)
        if best is None:
            return value
        gain = value - best if self.mode == "max" else best - value
        return value if gain > self.min_delta else None

    def metrics(self) -> frozenset[str]:
        """The one it watches."""
        return frozenset({self.metric})

    def events(self) -> frozenset[Event]:
        """Only the end of an epoch."""
        return frozenset({"epoch_end"})

    def describe(self) -> str:
        """`when val_loss improves (lower is better)`."""
        better = "lower" if self.mode == "min" else "higher"
        margin = f" by more than {number_text(self.min_delta)}" if self.min_delta else ""
        return f"when {self.metric} improves{margin} ({better} is better)"

    @classmethod
    def from_words(cls, words: list[str]) -> Trigger:
        """`val_loss min`, `val_loss min by 0.01`."""
        match words:
            case [metric, mode]:
                return cls(metric=metric, mode=mode)
            case [metric, mode, "by", min_delta]:
                return cls(metric=metric, mode=mode, min_delta=min_delta)
            case [metric]:
                raise wrong(f'"improved {metric}" must end in min or max: which way is better')
        raise wrong(
            'must be written like "improved val_loss min" or "improved val_loss min by 0.01",'
            f" got {show(' '.join(words))}"
        )


class TrainEnd(Trigger):
    """When training ends as planned, or stops early."""

    key: ClassVar[str] = "train_end"
    example: ClassVar[str] = "train_end"
    spelling: ClassVar[str] = "train_end"

    def reason(self, tick: Tick) -> str | None:
        """`training ended`."""
        return "training ended" if tick.event == "train_end" else None

    def events(self) -> frozenset[Event]:
        """Only the end of training."""
        return frozenset({"train_end"})

    def describe(self) -> str:
        """`when training ends`."""
        return "when training ends"

    @classmethod
    def from_body(cls, body: object) -> Trigger:
        """It has none."""
        raise wrong(f"takes nothing after it: write {cls.key} alone, got {show(body)}")


class OnException(Trigger):
    """When an exception stops training."""

    key: ClassVar[str] = "exception"
    example: ClassVar[str] = "exception"
    spelling: ClassVar[str] = "exception"

    def reason(self, tick: Tick) -> str | None:
        """`an exception stopped training`."""
        return "an exception stopped training" if tick.event == "exception" else None

    def events(self) -> frozenset[Event]:
        """Only an exception."""
        return frozenset({"exception"})

    def describe(self) -> str:
        """`when an exception stops training`."""
        return "when an exception stops training"

    @classmethod
    def from_body(cls, body: object) -> Trigger:
        """It has none."""
        raise wrong(f"takes nothing after it: write {cls.key} alone, got {show(body)}")


def parse_trigger(text: str) -> Trigger:
    """The trigger that a short string such as `every 200 steps` spells.

    Raises WrongValueError if it spells none.
    """
    words = text.split()
    spelled = {key: kind for key, kind in KINDS.items() if kind.spelling}
    kind = spelled.get(words[0]) if words else None
    if kind is not None:
        try:
            return kind.from_words(words[1:])
        except WrongValueError as error:
            problems = tuple(
                Problem("", join_words(each.path, each.message)) for each in error.problems
            )
            raise WrongValueError(show(text), problems) from error
    examples = ", ".join(f'"{each.spelling}"' for each in spelled.values())
    if words and words[0] in KINDS:
        raise wrong(f"{show(text)} cannot be said in one line; write {KINDS[words[0]].example}")
    near = suggest(words[0], spelled) if words else ""
    hint = f"{near} " if near.startswith("did") else ""
    raise wrong(f"no trigger is written {show(text)}; {hint}known: {examples}")


def join_words(field: str, message: str) -> str:
    """The message about a field of a short string, where no path leads to it."""
    return f"{field} {message}" if field else message


def read_trigger(value: object) -> Trigger:
    """A trigger from its value, its short string or its YAML shape.

    Raises WrongValueError with all problems, each with its path.
    """
    if isinstance(value, Trigger):
        return value
    if isinstance(value, str):
        return parse_trigger(value)
    if not isinstance(value, Mapping) or not value:
        raise wrong(f'must be a trigger such as {Every.example} or "train_end", got {show(value)}')
    unknown = [key for key in value if key not in KINDS]
    if len(value) == 1 and not unknown:
        key = next(iter(value))
        try:
            return KINDS[key].from_body(value[key])
        except WrongValueError as error:
            raise WrongValueError(key, error.under(key)) from error
    raise _not_one_trigger(value, unknown)


def _not_one_trigger(value: Mapping[Any, object], unknown: list[Any]) -> WrongValueError:
    known = [key for key in value if key in KINDS]
    if len(known) == 1 and value[known[0]] is None:
        kind = KINDS[known[0]]
        if all(key in kind.model_fields for key in unknown):
            words = " and ".join(unknown)
            return wrong(f"indent {words} further, to stand inside {kind.key}: {kind.example}")
    if unknown:
        hints = ((str(key), suggest(str(key), KINDS)) for key in unknown)
        problems = tuple(Problem(key, f"{UNKNOWN_KEY}; {hint}") for key, hint in hints)
        return WrongValueError("the trigger", problems)
    return wrong(
        f"{' and '.join(known)} are several triggers in one entry: start each with a dash,"
        " or write {all: [...]} if they must hold together"
    )


def read_triggers(value: object) -> tuple[Trigger, ...]:
    """One trigger, or a list of them, as `read_trigger` reads each."""
    if not isinstance(value, list | tuple):
        return (read_trigger(value),)
    if not value:
        raise wrong("needs at least one trigger, got an empty list")
    return read_each(value, read_trigger)


Triggers = Annotated[tuple[Trigger, ...], BeforeValidator(read_triggers)]


class AnyOf(Trigger):
    """When at least one of several fires."""

    key: ClassVar[str] = "any"
    example: ClassVar[str] = "{any: [{every: {steps: 200}}, train_end]}"
    body: ClassVar[str] = "triggers"

    triggers: Triggers

    def reason(self, tick: Tick) -> str | None:
        """The reasons of those that fire."""
        reasons = [why for each in self.triggers if (why := each.reason(tick)) is not None]
        return "; ".join(reasons) or None

    def learn(self, tick: Tick) -> dict[str, float]:
        """What all of them learn."""
        return _learned(self.triggers, tick)

    def metrics(self) -> frozenset[str]:
        """Those of all."""
        return frozenset().union(*(each.metrics() for each in self.triggers))

    def events(self) -> frozenset[Event]:
        """Those of all."""
        return frozenset().union(*(each.events() for each in self.triggers))

    def fires_when_idle(self) -> bool:
        """If one of them does."""
        return any(each.fires_when_idle() for each in self.triggers)

    def describe(self) -> str:
        """`(every 2 epochs or when training ends)`."""
        return f"({' or '.join(each.describe() for each in self.triggers)})"


class AllOf(Trigger):
    """When several fire at the same tick."""

    key: ClassVar[str] = "all"
    example: ClassVar[str] = "{all: [{every: {epochs: 2}}, {not: {every: {epochs: 10}}}]}"
    body: ClassVar[str] = "triggers"

    triggers: Triggers

    @model_validator(mode="after")
    def _possible(self) -> AllOf:
        denied = [each.trigger for each in self.triggers if isinstance(each, Not)]
        if not self.events() or any(each in denied for each in self.triggers):
            raise wrong(
                f"can never happen: {' and '.join(each.describe() for each in self.triggers)};"
                " write {any: [...]} if one of them is enough"
            )
        return self

    def reason(self, tick: Tick) -> str | None:
        """The reasons of all, if all fire."""
        reasons: list[str] = []
        for each in self.triggers:
            why = each.reason(tick)
            if why is None:
                return None
            reasons.append(why)
        return " and ".join(reasons)

    def learn(self, tick: Tick) -> dict[str, float]:
        """What all of them learn, whether or not all fire."""
        return _learned(self.triggers, tick)

    def metrics(self) -> frozenset[str]:
        """Those of all."""
        return frozenset().union(*(each.metrics() for each in self.triggers))

    def events(self) -> frozenset[Event]:
        """Those they share."""
        return ALL_EVENTS.intersection(*(each.events() for each in self.triggers))

    def fires_when_idle(self) -> bool:
        """If each of them does."""
        return all(each.fires_when_idle() for each in self.triggers)

    def describe(self) -> str:
        """`(every 2 epochs and not every 10 epochs)`."""
        return f"({' and '.join(each.describe() for each in self.triggers)})"


class Not(Trigger):
    """When another does not fire; a plan needs something beside it that does."""

    key: ClassVar[str] = "not"
    example: ClassVar[str] = "{not: {every: {epochs: 10}}}"
    body: ClassVar[str] = "trigger"

    trigger: Annotated[Trigger, BeforeValidator(read_trigger)]

    @model_validator(mode="after")
    def _not_twice(self) -> Not:
        if isinstance(self.trigger, Not):
            raise wrong("not inside not says nothing; write what is inside them alone")
        return self

    def reason(self, tick: Tick) -> str | None:
        """`not every 10 epochs`, if that does not fire."""
        return self.describe() if self.trigger.reason(tick) is None else None

    def learn(self, tick: Tick) -> dict[str, float]:
        """What the other learns."""
        return self.trigger.learn(tick)

    def metrics(self) -> frozenset[str]:
        """Those of the other."""
        return self.trigger.metrics()

    def fires_when_idle(self) -> bool:
        """If the other does not."""
        return not self.trigger.fires_when_idle()

    def describe(self) -> str:
        """`not every 10 epochs`."""
        return f"not {self.trigger.describe()}"


def _learned(triggers: tuple[Trigger, ...], tick: Tick) -> dict[str, float]:
    learned: dict[str, float] = {}
    for each in triggers:
        learned.update(each.learn(tick))
    return learned


KINDS: dict[str, type[Trigger]] = {
    kind.key: kind for kind in (Every, Improved, TrainEnd, OnException, AnyOf, AllOf, Not)
}
