"""The rules of `keep`: one class each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from keras_savekit.base.logs import number
from keras_savekit.base.text import plural, show
from keras_savekit.policy.fields import Mode, Number, Ranking, Text, Ties, Whole, wrong
from keras_savekit.policy.rules.base import Record, Rule, by_age, register
from keras_savekit.policy.units import Duration, Size, duration_text, size_text


@register
class Last(Rule):
    """Keep the newest, by step."""

    key: ClassVar[str] = "last"
    example: ClassVar[str] = "{last: 3}"
    spelling: ClassVar[str] = "last 3"
    body: ClassVar[str] = "count"

    count: Whole = Field(description="how many to keep")

    def chosen(self, verified: Sequence[Record], now: float) -> dict[str, str]:
        """Choose the last of the list."""
        return {record.name: self.describe() for record in verified[-self.count :]}

    def describe(self) -> str:
        """Return a text such as `last 3`."""
        return f"last {self.count}"

    def words(self) -> str:
        """Return a text such as `the last 3`."""
        return f"the last {self.count}" if self.count > 1 else "the last"


@register
class Best(Rule):
    """Keep the best by one metric.

    A checkpoint without a finite value of the metric does not count. Of equal values
    the first is better, unless `keep` says `last`.
    """

    key: ClassVar[str] = "best"
    example: ClassVar[str] = "{best: 2, metric: val_loss, mode: min}"
    spelling: ClassVar[str] = "best 2 val_loss min"
    body: ClassVar[str] = "count"
    beside: ClassVar[tuple[str, ...]] = ("metric", "mode", "keep")
    foreseeable: ClassVar[bool] = False

    count: Whole = Field(description="how many to keep")
    metric: Text = Field(description="the name of a metric, such as val_loss or val_f1_score[0]")
    mode: Mode = Field(description="which way is better, min or max; it is never guessed")
    keep: Ties = Field("first", description="which of equal values is kept")

    def chosen(self, verified: Sequence[Record], now: float) -> dict[str, str]:
        """Choose the first of the ranking."""
        best = list(rank(verified, self.ranking()).items())[: self.count]
        return {record.name: f"{self.describe()}: {value:.6g}" for record, value in best}

    def ranking(self) -> Ranking:
        """Return its metric, mode and which of equals it keeps."""
        return Ranking(self.metric, self.mode, self.keep)

    def metrics(self) -> frozenset[str]:
        """Return the metric it ranks by."""
        return frozenset({self.metric})

    def describe(self) -> str:
        """Return a text such as `best 2 val_loss min`."""
        return f"best {self.count} {self.metric} {self.mode}" + " last" * (self.keep == "last")

    @classmethod
    def from_words(cls, words: list[str]) -> Rule:
        """Read words such as `2 val_loss min` or `2 val_loss min last`."""
        if len(words) not in (3, 4):
            raise wrong(
                f"must be written like {show(cls.spelling)}, got {show(' '.join(('best', *words)))}"
            )
        return cls(**dict(zip(("count", *cls.beside), words, strict=False)))

    def words(self) -> str:
        """Return a text such as `the 2 best by val_loss (min)`."""
        return f"the {f'{self.count} ' * (self.count > 1)}best by {self.metric} ({self.mode})"


@register
class EveryNth(Rule):
    """Keep the first at or after each multiple of epochs, steps or hours trained."""

    key: ClassVar[str] = "every"
    example: ClassVar[str] = "{every: {epochs: 50}}"
    spelling: ClassVar[str] = "every 50 epochs"
    one_of: ClassVar[tuple[str, ...]] = ("epochs", "steps", "hours")

    epochs: Whole | None = Field(None, description="epochs between those that stay")
    steps: Whole | None = Field(None, description="steps between those that stay")
    hours: Annotated[Number, Field(gt=0)] | None = Field(None, description="hours trained")

    @model_validator(mode="after")
    def _one_unit(self) -> EveryNth:
        given = [name for name, value in self if value is not None]
        if len(given) != 1:
            raise wrong(
                f"needs exactly one of {', '.join(self.one_of)};"
                f" got {' and '.join(given) or 'none'}"
            )
        return self

    def chosen(self, verified: Sequence[Record], now: float) -> dict[str, str]:
        """Choose one for each multiple that was crossed."""
        first: dict[float, Record] = {}
        for record in verified:
            multiple = self._multiple(record)
            if multiple:
                first.setdefault(multiple, record)
        return {record.name: self.describe() for record in first.values()}

    def _multiple(self, record: Record) -> float:
        if self.epochs is not None:
            return record.epoch // self.epochs
        if self.steps is not None:
            return record.step // self.steps
        return record.seconds // ((self.hours or 0) * 3600)

    def describe(self) -> str:
        """Return a text such as `every 50 epochs`."""
        unit, count = next((unit, count) for unit, count in self if count is not None)
        return f"every {unit[:-1] if count == 1 else plural(count, unit[:-1])}"

    @classmethod
    def from_words(cls, words: list[str]) -> Rule:
        """Read words such as `50 epochs` or `epoch`."""
        if len(words) not in (1, 2):
            raise wrong(f"must be written like {show(cls.spelling)}")
        *count, unit = words
        return cls(**{unit if unit.endswith("s") else f"{unit}s": count[0] if count else 1})

    def words(self) -> str:
        """Return a text such as `one every 50 epochs`."""
        return f"one {self.describe()}"


@register
class NewerThan(Rule):
    """Keep those that were saved less than some time ago, by the wall clock."""

    key: ClassVar[str] = "newer_than"
    example: ClassVar[str] = "{newer_than: 7d}"
    spelling: ClassVar[str] = "newer_than 7d"
    body: ClassVar[str] = "age"
    foreseeable: ClassVar[bool] = False

    age: Duration = Field(description="a duration such as 7d")

    def chosen(self, verified: Sequence[Record], now: float) -> dict[str, str]:
        """Choose the recent ones."""
        recent = (record for record in verified if now - record.created < self.age)
        return {record.name: self.describe() for record in recent}

    def written(self) -> dict[str, Any]:
        """Return its fields, the age as people write it."""
        return {"age": duration_text(self.age)}

    def describe(self) -> str:
        """Return a text such as `newer_than 7d`."""
        return f"newer_than {duration_text(self.age)}"

    def words(self) -> str:
        """Return a text such as `those of the last 7d`."""
        return f"those of the last {duration_text(self.age)}"


@register
class WithinSize(Rule):
    """Keep the newest, as many as together take no more than a size."""

    key: ClassVar[str] = "size"
    example: ClassVar[str] = "{size: 20GB}"
    spelling: ClassVar[str] = "size 20GB"
    body: ClassVar[str] = "size"
    foreseeable: ClassVar[bool] = False

    size: Size = Field(description="a size such as 20GB")

    def chosen(self, verified: Sequence[Record], now: float) -> dict[str, str]:
        """Choose from the newest back, until the next would be too much."""
        names: dict[str, str] = {}
        total = 0
        for record in reversed(verified):
            total += record.bytes
            if total > self.size:
                break
            names[record.name] = self.describe()
        return names

    def written(self) -> dict[str, Any]:
        """Return its fields, the size as people write it."""
        return {"size": size_text(self.size)}

    def describe(self) -> str:
        """Return a text such as `size 20GB`."""
        return f"size {size_text(self.size)}"

    def words(self) -> str:
        """Return a text such as `the newest that fit into 20GB`."""
        return f"the newest that fit into {size_text(self.size)}"


@register
class All(Rule):
    """Keep every one."""

    key: ClassVar[str] = "all"
    example: ClassVar[str] = "all"
    spelling: ClassVar[str] = "all"

    def chosen(self, verified: Sequence[Record], now: float) -> dict[str, str]:
        """Choose the whole list."""
        return {record.name: "all" for record in verified}

    def describe(self) -> str:
        """Return the word `all`."""
        return "all"

    def words(self) -> str:
        """Return the words `every one`."""
        return "every one"


def rank(records: Iterable[Record], ranking: Ranking) -> dict[Record, float]:
    """Return the verified checkpoints and their finite values of the metric, the best first."""
    in_order = sorted(records, key=by_age, reverse=ranking.ties == "last")
    values = {
        record: value
        for record in in_order
        if record.verified
        and (value := number(record.logs, ranking.metric)) is not None
        and math.isfinite(value)
    }
    sign = 1 if ranking.mode == "min" else -1
    return dict(sorted(values.items(), key=lambda item: sign * item[1]))
