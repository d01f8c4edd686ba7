"""Triggers that follow how far training has come: steps, epochs, time, beginning and end."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field, model_validator

from keras_savekit.base.moment import NEVER, Event, Horizon, Moment, Tick
from keras_savekit.base.text import number_text, plural, show, suggest
from keras_savekit.policy.fields import Number, Whole, WrongValueError, as_whole, read_each, wrong
from keras_savekit.policy.triggers.base import ALL_EVENTS, Length, Trigger, register
from keras_savekit.policy.units import as_duration, is_duration

UNITS = ("steps", "epochs", "seconds", "minutes", "hours")
_SECONDS = {"seconds": 1, "minutes": 60, "hours": 3600}
_Time = Annotated[Number, Field(gt=0)]


@register
class Every(Trigger):
    """Each time a multiple of one unit is crossed, however far a tick jumps.

    Epochs count when finished. Time is time trained, summed over interruptions.
    With an offset the multiples are moved by it; with `first`, those before it
    do not count. Both are in the unit that is given.
    """

    key: ClassVar[str] = "every"
    example: ClassVar[str] = "{every: {steps: 200}}"
    spelling: ClassVar[str] = "every 200 steps"
    one_of: ClassVar[tuple[str, ...]] = UNITS

    steps: Whole | None = Field(None, description="optimizer steps between saves")
    epochs: Whole | None = Field(None, description="epochs between saves")
    seconds: _Time | None = Field(None, description="seconds trained")
    minutes: _Time | None = Field(None, description="minutes trained")
    hours: _Time | None = Field(None, description="hours trained")
    offset: Annotated[Number, Field(ge=0)] = Field(0.0, description="moves every save by this")
    first: Annotated[Number, Field(ge=0)] = Field(0.0, description="no save before this")

    @model_validator(mode="after")
    def _one_unit(self) -> Every:
        given = [name for name in UNITS if getattr(self, name) is not None]
        if len(given) != 1:
            raise wrong(
                f"needs exactly one of {', '.join(UNITS)}; got {' and '.join(given) or 'none'}"
            )
        unit, count = self._unit()
        if self.offset >= count:
            raise wrong(
                f"must be less than the {plural(count, unit[:-1])} between two saves, got"
                f" {number_text(self.offset)}; `first` says where to begin",
                "offset",
            )
        for name, value in (("offset", self.offset), ("first", self.first)):
            if unit in ("steps", "epochs") and value != int(value):
                raise wrong(f"must be a whole number of {unit}, got {number_text(value)}", name)
        return self

    def reason(self, tick: Tick) -> str | None:
        """Return a text such as `every 200 steps`, if a multiple is between the two moments."""
        unit, _ = self._unit()
        stretch = 1 if unit == "epochs" else tick.interval_factor
        scale = _SECONDS.get(unit, 1)
        length, offset, first = self._length(stretch), self.offset * scale, self.first * scale
        index = (_position(tick.now, unit) - offset) // length
        if not (_position(tick.before, unit) - offset) // length < index:
            return None
        if index < max(0, math.ceil((first - offset) / length)):
            return None
        return self.describe() + (f", made {stretch} times longer" if stretch > 1 else "")

    def horizon(self, now: Moment, stretch: int) -> Horizon:
        """The next multiple."""
        unit, _ = self._unit()
        if unit == "epochs":
            return NEVER
        offset, length = self.offset * _SECONDS.get(unit, 1), self._length(stretch)
        following = ((_position(now, unit) - offset) // length + 1) * length + offset
        return Horizon(step=following) if unit == "steps" else Horizon(seconds=following)

    def _length(self, stretch: int) -> float:
        unit, count = self._unit()
        return count * stretch * _SECONDS.get(unit, 1)

    def _unit(self) -> tuple[str, float]:
        for name in UNITS:
            count = getattr(self, name)
            if count is not None:
                return name, count
        raise AssertionError("an Every without a unit cannot be built")  # pragma: no cover

    def foreseen(self, length: Length) -> Iterable[int] | None:
        """Return its multiples; in time, those of the seconds that a step takes."""
        unit, count = self._unit()
        if unit == "epochs":
            return ()
        if unit == "steps":
            return range(int(self.offset) or int(count), length.steps + 1, int(count))
        if not length.step_seconds:
            return None
        scale = _SECONDS[unit] / length.step_seconds
        period, offset = count * scale, self.offset * scale
        steps = (math.ceil(offset + index * period) for index in itertools.count())
        within = itertools.takewhile(lambda step: step <= length.steps, steps)
        return (step for step in within if step > 0)

    def describe(self) -> str:
        """Return a text such as `every 200 steps`; reads back as the same trigger."""
        unit, count = self._unit()
        words = f"every {unit[:-1] if count == 1 else plural(count, unit[:-1])}"
        if self.offset:
            words += f" offset {number_text(self.offset)}"
        return f"{words} first {number_text(self.first)}" if self.first else words

    def events(self) -> frozenset[Event]:
        """Steps pass only in batches, epochs only at their end, time always."""
        if self.epochs is not None:
            return frozenset({"epoch_end"})
        return ALL_EVENTS if self.steps is None else frozenset({"step", "epoch_end"})

    @classmethod
    def from_words(cls, words: list[str]) -> Trigger:
        """`200 steps`, `epoch`, `1.5 hours`, `1h30m`, `200 steps offset 50 first 1000`."""
        given, fields = list(words), dict[str, object]()
        while len(given) > 2 and given[-2] in ("first", "offset"):
            fields[given[-2]] = given[-1]
            del given[-2:]
        if len(given) == 1 and is_duration(given[0]):
            return cls(**{"seconds": as_duration(given[0]), **fields})
        if len(given) == 1:
            given = ["1", *given]
        if len(given) != 2:
            raise wrong(f'must be written like "every 200 steps", got {show(" ".join(words))}')
        count, unit = given
        if unit in UNITS or f"{unit}s" in UNITS:
            fields[unit if unit in UNITS else f"{unit}s"] = count
            return cls(**fields)
        raise wrong(f"unknown unit {show(unit)}; {suggest(unit, UNITS)}")

    @classmethod
    def from_body(cls, body: object) -> Trigger:
        """Read words such as `{steps: 200}`, or a duration alone."""
        if isinstance(body, str) and is_duration(body):
            return cls(seconds=as_duration(body))
        return super().from_body(body)


def _position(moment: Moment, unit: str) -> float:
    if unit == "steps":
        return moment.step
    return moment.epoch if unit == "epochs" else moment.seconds


def _read_counts(value: object) -> tuple[int, ...]:
    """Whole numbers, 1 or more, in rising order."""
    if not isinstance(value, list | tuple):
        value = [value]
    if not value:
        raise wrong("needs at least one number, got an empty list")

    def read(item: object) -> int:
        count = as_whole(item)
        if count < 1:
            raise wrong(f"must be 1 or more, got {count}")
        return count

    return tuple(sorted(read_each(value, read)))


Counts = Annotated[tuple[int, ...], BeforeValidator(_read_counts)]


class _At(Trigger):
    """When one of several counts is passed."""

    body: ClassVar[str] = "at"
    noun: ClassVar[str]  # what is counted

    at: Counts = Field(description="a list of whole numbers")

    def _passed(self, before: int, now: int) -> str | None:
        passed = [count for count in self.at if before < count <= now]
        return f"{self.noun} {passed[-1]}" if passed else None

    @classmethod
    def from_words(cls, words: list[str]) -> Trigger:
        """Read words such as `5 10 20`, also with commas."""
        try:
            return cls(at=" ".join(words).replace(",", " ").split())
        except WrongValueError as error:
            raise wrong(
                f'must be written like "{cls.spelling}": {error.problems[0].message}'
            ) from None


@register
class EpochEnd(_At):
    """At the end of certain epochs, counted from 1."""

    key: ClassVar[str] = "epoch_end"
    example: ClassVar[str] = "{epoch_end: [5, 10, 20]}"
    spelling: ClassVar[str] = "epoch_end 5 10 20"
    noun: ClassVar[str] = "epoch"

    def reason(self, tick: Tick) -> str | None:
        """Return a text such as `epoch 5`."""
        return self._passed(tick.before.epoch, tick.now.epoch)

    def foreseen(self, length: Length) -> Iterable[int]:
        """Return no step of its own: it fires at the end of epochs."""
        return ()

    def events(self) -> frozenset[Event]:
        """Only the end of an epoch."""
        return frozenset({"epoch_end"})

    def describe(self) -> str:
        """Return a text such as `after epochs 5, 10, 20`."""
        return f"after epoch{'s' * (len(self.at) > 1)} {', '.join(map(str, self.at))}"


@register
class Steps(_At):
    """When certain steps are passed."""

    key: ClassVar[str] = "steps"
    example: ClassVar[str] = "{steps: [1000, 5000]}"
    spelling: ClassVar[str] = "steps 1000 5000"
    noun: ClassVar[str] = "step"

    def reason(self, tick: Tick) -> str | None:
        """Return a text such as `step 1000`."""
        return self._passed(tick.before.step, tick.now.step)

    def horizon(self, now: Moment, stretch: int) -> Horizon:
        """The next of its steps."""
        return Horizon(step=min((step for step in self.at if step > now.step), default=math.inf))

    def foreseen(self, length: Length) -> Iterable[int]:
        """Return its steps, as far as training goes."""
        return [step for step in self.at if step <= length.steps]

    def events(self) -> frozenset[Event]:
        """Steps pass only in batches."""
        return frozenset({"step", "epoch_end"})

    def describe(self) -> str:
        """Return a text such as `after steps 1000, 5000`."""
        return f"after step{'s' * (len(self.at) > 1)} {', '.join(map(str, self.at))}"


@register
class TrainBegin(Trigger):
    """Before the first step of a training; not again when it is resumed."""

    key: ClassVar[str] = "train_begin"
    example: ClassVar[str] = "train_begin"
    spelling: ClassVar[str] = "train_begin"

    def reason(self, tick: Tick) -> str | None:
        """Return a text such as `training begins`."""
        begins = tick.event == "train_begin" and tick.now.step == 0
        return "training begins" if begins else None

    def foreseen(self, length: Length) -> Iterable[int]:
        """Return no step of its own: it fires at the beginning of training."""
        return ()

    def events(self) -> frozenset[Event]:
        """Only the beginning of training."""
        return frozenset({"train_begin"})

    def describe(self) -> str:
        """Return a text such as `when training begins`."""
        return "when training begins"


@register
class TrainEnd(Trigger):
    """When training ends as planned, or stops early."""

    key: ClassVar[str] = "train_end"
    example: ClassVar[str] = "train_end"
    spelling: ClassVar[str] = "train_end"

    def reason(self, tick: Tick) -> str | None:
        """Return a text such as `training ended`."""
        return "training ended" if tick.event == "train_end" else None

    def foreseen(self, length: Length) -> Iterable[int]:
        """Return no step of its own: it fires at the end of training."""
        return ()

    def events(self) -> frozenset[Event]:
        """Only the end of training."""
        return frozenset({"train_end"})

    def describe(self) -> str:
        """Return a text such as `when training ends`."""
        return "when training ends"


@register
class OnException(Trigger):
    """When an exception stops training, a KeyboardInterrupt too."""

    key: ClassVar[str] = "exception"
    example: ClassVar[str] = "exception"
    spelling: ClassVar[str] = "exception"

    def reason(self, tick: Tick) -> str | None:
        """Return a text such as `an exception stopped training`."""
        return "an exception stopped training" if tick.event == "exception" else None

    def events(self) -> frozenset[Event]:
        """Only an exception."""
        return frozenset({"exception"})

    def describe(self) -> str:
        """Return a text such as `when an exception stops training`."""
        return "when an exception stops training"
