"""What every rule of `keep` is: a value that chooses, among checkpoints, those that stay.

A new rule is one class with its YAML key in `kinds`, marked `@register`. Reading
rules from text is `registry`; what goes when all rules have chosen is `prune`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from pydantic import model_serializer

from keras_savekit.base.logs import Logs
from keras_savekit.base.text import show
from keras_savekit.policy.fields import Ranking, Value, wrong


@dataclass(frozen=True, slots=True, eq=False)
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
    logs: Logs
    verified: bool
    busy: bool = False
    pinned: bool = False
    epoch: int = 0
    seconds: float = 0.0
    created: float = 0.0
    bytes: int = 0


def by_age(record: Record) -> tuple[int, str]:
    """The order of checkpoints: by step, then name."""
    return record.step, record.name


class Rule(Value, ABC):
    """One way of choosing what stays, among the verified checkpoints of one plan.

    key: its word in YAML and in short strings.
    example: how it is written in YAML, for messages.
    spelling: its short string.
    body: the field that is written directly under the key; empty if all fields are
        written in a mapping under it.
    beside: fields that are written beside the key, not under it.
    foreseeable: whether its choice depends on nothing but steps, epochs and time trained.
    """

    key: ClassVar[str]
    example: ClassVar[str]
    spelling: ClassVar[str]
    body: ClassVar[str] = ""
    beside: ClassVar[tuple[str, ...]] = ()
    foreseeable: ClassVar[bool] = True

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

    def metrics(self) -> frozenset[str]:
        """The metrics it looks at."""
        return frozenset()

    def ranking(self) -> Ranking | None:
        """By what it ranks checkpoints, if it does."""
        return None

    def written(self) -> dict[str, Any]:
        """Its fields that differ from their defaults, as people write them in YAML."""
        kind = type(self).model_fields
        return {name: value for name, value in self if value != kind[name].default}

    @classmethod
    def from_words(cls, words: list[str]) -> Rule:
        """The rule that the words after its key in a short string spell."""
        if not cls.body and not words:
            return cls()
        if cls.body and len(words) == 1:
            return cls(**{cls.body: words[0]})
        raise wrong(
            f"must be written like {show(cls.spelling)}, got {show(' '.join((cls.key, *words)))}"
        )

    @model_serializer
    def _as_written(self) -> Any:
        kind, fields = type(self), self.written()
        if not kind.model_fields:
            return kind.key
        if not kind.body:
            return {kind.key: fields}
        return {kind.key: fields[kind.body], **{n: fields[n] for n in kind.beside if n in fields}}


KINDS: dict[str, type[Rule]] = {}
R = TypeVar("R", bound=type[Rule])


def register(kind: R) -> R:
    """Make a rule known by its key to YAML, short strings, the schema and the forecast."""
    KINDS[kind.key] = kind
    return kind
