"""Triggers that look at metrics: when one gets better, when a condition is reached.

Only finite values improve anything. A metric that Keras does not report at a
tick, as between two validations, means "not now".
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from keras_savekit.base.logs import number
from keras_savekit.base.moment import Event, Tick
from keras_savekit.base.text import number_text, show
from keras_savekit.policy.fields import Mode, Number, Ranking, Text, Ties, wrong
from keras_savekit.policy.triggers.base import Trigger, register
from keras_savekit.policy.triggers.condition import parse_condition

When = Literal["epoch", "step"]
_EVENTS: dict[When, frozenset[Event]] = {
    "epoch": frozenset({"epoch_end"}),
    "step": frozenset({"step", "epoch_end"}),
}


@register
class Improved(Trigger):
    """When a metric is better than ever before: at an epoch's end, or after any step.

    A tie is no improvement, unless the last of equals is kept. Only finite
    values count: a NaN or an infinity neither improves nor is remembered, since
    nothing could be better after it. The best is the best seen, saved or not,
    and at first the threshold `from`, if there is one.
    """

    key: ClassVar[str] = "improved"
    example: ClassVar[str] = "{improved: {metric: val_loss, mode: min}}"
    spelling: ClassVar[str] = "improved val_loss min"

    metric: Text = Field(description="the name of a metric, such as val_loss or val_f1_score[0]")
    mode: Mode = Field(description="which way is better, min or max; it is never guessed")
    min_delta: Annotated[Number, Field(ge=0)] = Field(
        0.0, description="how much better counts as better"
    )
    from_: Number | None = Field(
        None, alias="from", description="the first value must be better than this"
    )
    at: When = Field("epoch", description="looked at when an epoch ends, or after each step too")
    keep: Ties = Field("first", description="which of equal values counts")

    @property
    def memory_key(self) -> str:
        """The key of the best value in the run's memory."""
        key = f"{self.metric} {self.mode} {number_text(self.min_delta)}"
        if self.from_ is not None:
            key += f" from {number_text(self.from_)}"
        return key + " step" * (self.at == "step") + " last" * (self.keep == "last")

    def _best(self, tick: Tick) -> float | None:
        return tick.memory.get(self.memory_key, self.from_)

    def reason(self, tick: Tick) -> str | None:
        """Return a text such as `val_loss improved from 0.4 to 0.3`."""
        value = self._improvement(tick)
        if value is None:
            return None
        best = self._best(tick)
        if best is None:
            return f"{self.metric} has its first value, {value:.6g}"
        old, new = f"{best:.6g}", f"{value:.6g}"
        if old == new:
            old, new = number_text(best), number_text(value)
        if value == best:
            return f"{self.metric} is {new} again"
        return f"{self.metric} improved from {old} to {new}"

    def learn(self, tick: Tick) -> dict[str, float]:
        """The new best, if this tick has one."""
        value = self._improvement(tick)
        return {} if value is None else {self.memory_key: value}

    def _improvement(self, tick: Tick) -> float | None:
        if tick.event not in self.events():
            return None
        value = number(tick.now.logs, self.metric)
        if value is None or not math.isfinite(value):
            return None
        best = self._best(tick)
        if best is None:
            return value
        gain = value - best if self.mode == "max" else best - value
        if self.keep == "last" and gain == 0 and self.memory_key in tick.memory:
            return value
        return value if gain > self.min_delta else None

    def metrics(self) -> frozenset[str]:
        """Return the metric it watches."""
        return frozenset({self.metric})

    def ranking(self) -> Ranking:
        """Return its metric, mode and which of equals counts."""
        return Ranking(self.metric, self.mode, self.keep)

    def events(self) -> frozenset[Event]:
        """The end of an epoch, and steps if it looks at them."""
        return _EVENTS[self.at]

    def describe(self) -> str:
        """Return a text such as `when val_loss improves (lower is better)`."""
        better = "lower" if self.mode == "min" else "higher"
        margin = f" by more than {number_text(self.min_delta)}" if self.min_delta else ""
        words = f"when {self.metric} improves{margin}"
        if self.from_ is not None:
            words += f" from {number_text(self.from_)}"
        words += " at any step" * (self.at == "step") + " or ties" * (self.keep == "last")
        return f"{words} ({better} is better)"

    @classmethod
    def from_words(cls, words: list[str]) -> Trigger:
        """Read words such as `val_loss min`, `val_loss min by 0.01 from 0.5`."""
        match words:
            case [metric, mode]:
                return cls(metric=metric, mode=mode)
            case [metric, mode, "by", min_delta]:
                return cls(metric=metric, mode=mode, min_delta=min_delta)
            case [metric, mode, "from", start]:
                return cls(**{"metric": metric, "mode": mode, "from": start})
            case [metric, mode, "by", min_delta, "from", start]:
                fields = {"metric": metric, "mode": mode, "min_delta": min_delta, "from": start}
                return cls(**fields)
            case [metric]:
                raise wrong(f'"improved {metric}" must end in min or max: which way is better')
        raise wrong(
            'must be written like "improved val_loss min" or "improved val_loss min by 0.01",'
            f" got {show(' '.join(words))}"
        )


@register
class Reached(Trigger):
    """When a condition over the logs becomes true, or at every look while it is true."""

    key: ClassVar[str] = "reached"
    example: ClassVar[str] = '{reached: "val_accuracy >= 0.95"}'
    spelling: ClassVar[str] = "reached val_accuracy >= 0.95"
    body: ClassVar[str] = "condition"

    condition: Text = Field(description='what must hold, such as "val_accuracy >= 0.95"')
    fires: Literal["once", "while_true"] = Field(
        "once", description="once, each time it becomes true; while_true: at every look"
    )
    at: When = Field("epoch", description="looked at when an epoch ends, or after each step too")

    @field_validator("condition")
    @classmethod
    def _can_be_read(cls, condition: str) -> str:
        parse_condition(condition)
        return condition

    @property
    def memory_key(self) -> str:
        """The key under which the memory holds whether the condition held at the last look."""
        return f"reached {self.condition}" + " step" * (self.at == "step")

    def reason(self, tick: Tick) -> str | None:
        """Return a text such as `reached val_accuracy >= 0.95`."""
        held = bool(tick.memory.get(self.memory_key)) and self.fires == "once"
        return f"reached {self.condition}" if self._holds(tick) and not held else None

    def learn(self, tick: Tick) -> dict[str, float]:
        """Whether it holds now, if that is news."""
        holds = self._holds(tick)
        if holds is None or holds == bool(tick.memory.get(self.memory_key)):
            return {}
        return {self.memory_key: float(holds)}

    def _holds(self, tick: Tick) -> bool | None:
        if tick.event not in self.events():
            return None
        return parse_condition(self.condition).holds(tick.now.logs)

    def metrics(self) -> frozenset[str]:
        """Those it compares."""
        return parse_condition(self.condition).metrics

    def events(self) -> frozenset[Event]:
        """The end of an epoch, and steps if it looks at them."""
        return _EVENTS[self.at]

    def describe(self) -> str:
        """Return a text such as `when val_accuracy >= 0.95 is reached`."""
        look = "epoch" if self.at == "epoch" else "step"
        if self.fires == "while_true":
            return f"at every {look} while {self.condition}"
        return f"when {self.condition} is reached" + " at any step" * (self.at == "step")

    @classmethod
    def from_words(cls, words: list[str]) -> Trigger:
        """The condition."""
        return cls(condition=" ".join(words))
