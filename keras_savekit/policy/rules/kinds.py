"""Which checkpoints stay and which go.

Pure: takes records and rules, returns a plan with reasons. Removing is
`store.directory`; when it happens is the session's business. `rules` reads the
rules from YAML and short strings.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, model_serializer, model_validator

from keras_savekit.policy.fields import Mode, Number, Text, Value, Whole, plural, wrong
from keras_savekit.policy.units import Duration, Size, duration_text, size_text

Ties = Literal["first", "last"]


@dataclass(frozen=True, slots=True)
class Record:
    """What retention knows of one checkpoint.

    verified: False while it is not yet verified.
    busy: being verified or read right now.
    pinned: a person said that it stays.
    epoch, seconds: epochs finished and time trained when it was saved.
    created: seconds since 1970.
    bytes: what it takes on the disk.
    """

    name: str
    plan: str
    step: int
    logs: Mapping[str, float]
    verified: bool
    busy: bool = False
    pinned: bool = False
    epoch: int = 0
    seconds: float = 0.0
    created: float = 0.0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Pruning:
    """What stays and what goes: each name with its reasons, oldest first."""

    keep: Mapping[str, tuple[str, ...]]
    remove: Mapping[str, str]


class Rule(Value, ABC):
    """One way of choosing what stays, among the verified checkpoints of one plan."""

    @abstractmethod
    def chosen(self, verified: Sequence[Record], now: float) -> dict[str, str]:
        """Name to reason of those that stay.

        verified: oldest first.
        now: seconds since 1970.
        """

    @abstractmethod
    def describe(self) -> str:
        """The rule as a short string, which reads back as the same rule."""

    @abstractmethod
    def words(self) -> str:
        """What it keeps, in English."""

    @abstractmethod
    def as_written(self) -> Any:
        """The rule in the shape of YAML."""

    def metrics(self) -> frozenset[str]:
        """The metrics it looks at."""
        return frozenset()

    @model_serializer
    def _serialized(self) -> Any:
        return self.as_written()


class Last(Rule):
    """The newest, by step."""

    count: Whole = Field(description="how many to keep")

    def chosen(self, verified: Sequence[Record], now: float) -> dict[str, str]:
        """The last of the list."""
        return {each.name: self.describe() for each in verified[-self.count :]}

    def describe(self) -> str:
        """`last 3`."""
        return f"last {self.count}"

    def words(self) -> str:
        """`the last 3`."""
        return f"the last {self.count}" if self.count > 1 else "the last"

    def as_written(self) -> Any:
        """`{last: 3}`."""
        return {"last": self.count}


class Best(Rule):
    """The best by one metric; those that lack it, or hold no finite value, are none.

    Of equal values the first is better, unless the last is kept.
    """

    count: Whole = Field(description="how many to keep")
    metric: Text = Field(description="the name of a metric, such as val_loss")
    mode: Mode = Field(description="which way is better, min or max; it is never guessed")

    keep: Ties = Field("first", description="which of equal values is kept")

    def chosen(self, verified: Sequence[Record], now: float) -> dict[str, str]:
        """The first of the ranking."""
        ranked = _ranked(verified, self.metric, self.mode, self.keep)[: self.count]
        return {each.name: f"{self.describe()}: {each.logs[self.metric]:.6g}" for each in ranked}

    def metrics(self) -> frozenset[str]:
        """The one it ranks by."""
        return frozenset({self.metric})

    def describe(self) -> str:
        """`best 2 val_loss min`."""
        return f"best {self.count} {self.metric} {self.mode}" + " last" * (self.keep == "last")

    def words(self) -> str:
        """`the 2 best by val_loss (min)`."""
        return f"the {f'{self.count} ' * (self.count > 1)}best by {self.metric} ({self.mode})"

    def as_written(self) -> Any:
        """`{best: 2, metric: val_loss, mode: min}`."""
        shape = {"best": self.count, "metric": self.metric, "mode": self.mode}
        return {**shape, "keep": "last"} if self.keep == "last" else shape


class EveryNth(Rule):
    """The first at or after each multiple of epochs, steps or hours trained."""

    epochs: Whole | None = Field(None, description="epochs between those that stay")
    steps: Whole | None = Field(None, description="steps between those that stay")
    hours: Annotated[Number, Field(gt=0)] | None = Field(None, description="hours trained")

    @model_validator(mode="after")
    def _one_unit(self) -> EveryNth:
        given = [name for name, value in self if value is not None]
        if len(given) != 1:
            raise wrong(
                f"needs exactly one of {', '.join(EveryNth.model_fields)};"
                f" got {' and '.join(given) or 'none'}"
            )
        return self

    def chosen(self, verified: Sequence[Record], now: float) -> dict[str, str]:
        """One for each multiple that was passed."""
        passed: set[float] = set()
        names: dict[str, str] = {}
        for each in verified:
            multiple = self._multiple(each)
            if multiple and multiple not in passed:
                passed.add(multiple)
                names[each.name] = self.describe()
        return names

    def _multiple(self, record: Record) -> float:
        if self.epochs is not None:
            return record.epoch // self.epochs
        if self.steps is not None:
            return record.step // self.steps
        return record.seconds // ((self.hours or 0) * 3600)

    def describe(self) -> str:
        """`every 50 epochs`."""
        unit, count = next((unit, count) for unit, count in self if count is not None)
        return f"every {unit[:-1] if count == 1 else plural(count, unit[:-1])}"

    def words(self) -> str:
        """`one every 50 epochs`."""
        return f"one {self.describe()}"

    def as_written(self) -> Any:
        """`{every: {epochs: 50}}`."""
        return {"every": {unit: count for unit, count in self if count is not None}}


class NewerThan(Rule):
    """Those that were saved less than a while ago, by the wall clock."""

    age: Duration = Field(description="a duration such as 7d")

    def chosen(self, verified: Sequence[Record], now: float) -> dict[str, str]:
        """The recent ones."""
        return {each.name: self.describe() for each in verified if now - each.created < self.age}

    def describe(self) -> str:
        """`newer_than 7d`."""
        return f"newer_than {duration_text(self.age)}"

    def words(self) -> str:
        """`those of the last 7d`."""
        return f"those of the last {duration_text(self.age)}"

    def as_written(self) -> Any:
        """`{newer_than: 7d}`."""
        return {"newer_than": duration_text(self.age)}


class WithinSize(Rule):
    """The newest, as many as together take no more than a size."""

    size: Size = Field(description="a size such as 20GB")

    def chosen(self, verified: Sequence[Record], now: float) -> dict[str, str]:
        """From the newest back, until the next would be too much."""
        names: dict[str, str] = {}
        taken = 0
        for each in reversed(verified):
            taken += each.bytes
            if taken > self.size:
                break
            names[each.name] = self.describe()
        return names

    def describe(self) -> str:
        """`size 20GB`."""
        return f"size {size_text(self.size)}"

    def words(self) -> str:
        """`the newest that fit into 20GB`."""
        return f"the newest that fit into {size_text(self.size)}"

    def as_written(self) -> Any:
        """`{size: 20GB}`."""
        return {"size": size_text(self.size)}


class All(Rule):
    """Every one."""

    def chosen(self, verified: Sequence[Record], now: float) -> dict[str, str]:
        """The whole list."""
        return {each.name: "all" for each in verified}

    def describe(self) -> str:
        """`all`."""
        return "all"

    def words(self) -> str:
        """`every one`."""
        return "every one"

    def as_written(self) -> Any:
        """`all`."""
        return "all"


def prune(
    records: Iterable[Record],
    rules: Mapping[str, tuple[Rule, ...]],
    resume_from: str | None = None,
    now: float | None = None,
) -> Pruning:
    """What the rules keep and what they let go.

    records: all checkpoints of the run, in any order.
    rules: plan name to its rules; the checkpoints of a plan without rules stay.
    resume_from: the name of the checkpoint that training resumed from, if any.
    now: seconds since 1970; without it, when the newest was made.

    Whatever the rules say, these stay: the newest verified checkpoint,
    `resume_from`, pinned and busy ones, and those not yet verified.
    """
    ordered = sorted(records, key=_age)
    if now is None:
        now = max((each.created for each in ordered), default=0.0)
    verified = [each for each in ordered if each.verified]
    reasons: dict[str, list[str]] = {each.name: _unremovable(each, resume_from) for each in ordered}
    if verified:
        reasons[verified[-1].name].insert(0, "newest verified")
    for plan in dict.fromkeys(each.plan for each in ordered):
        for rule in rules.get(plan, ()):
            of_plan = [each for each in verified if each.plan == plan]
            for name, reason in rule.chosen(of_plan, now).items():
                reasons[name].append(reason)
        if not rules.get(plan):
            for each in ordered:
                if each.plan == plan:
                    reasons[each.name].append(f'the policy has no plan "{plan}"')
    return Pruning(
        keep={name: tuple(why) for name, why in reasons.items() if why},
        remove={
            each.name: f"not in {', '.join(rule.describe() for rule in rules[each.plan])}"
            for each in ordered
            if not reasons[each.name]
        },
    )


def _unremovable(record: Record, resume_from: str | None) -> list[str]:
    held = (
        (record.name == resume_from, "training resumed from it"),
        (record.pinned, "pinned"),
        (record.busy, "in use"),
        (not record.verified, "not yet verified"),
    )
    return [reason for holds, reason in held if holds]


def best_of(
    records: Iterable[Record], metric: str, mode: Mode, keep: Ties = "first"
) -> Record | None:
    """The best verified checkpoint by `metric`; of equals, the first or the last.

    None if no verified checkpoint has a finite value of it.
    """
    ranked = _ranked(records, metric, mode, keep)
    return ranked[0] if ranked else None


def _ranked(records: Iterable[Record], metric: str, mode: Mode, keep: Ties) -> list[Record]:
    sign = 1 if mode == "min" else -1
    able = [
        each for each in records if each.verified and math.isfinite(each.logs.get(metric, math.nan))
    ]
    in_age = sorted(able, key=_age, reverse=keep == "last")
    return sorted(in_age, key=lambda each: sign * each.logs[metric])


def _age(record: Record) -> tuple[int, str]:
    return (record.step, record.name)
