"""How triggers combine, and how they are read from YAML and short strings.

A new trigger is a class with its YAML key, and an entry in KINDS.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, model_validator

from keras_savekit.base.moment import Event, Tick
from keras_savekit.errors import Problem
from keras_savekit.policy.fields import (
    UNKNOWN_KEY,
    WrongValueError,
    read_each,
    show,
    suggest,
    wrong,
)
from keras_savekit.policy.triggers.base import ALL_EVENTS, Trigger
from keras_savekit.policy.triggers.external import BeforeDeadline, FileRequested, Signal
from keras_savekit.policy.triggers.metric import Improved, Reached
from keras_savekit.policy.triggers.schedule import (
    EpochEnd,
    Every,
    OnException,
    Steps,
    TrainBegin,
    TrainEnd,
)


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
    empty = [key for key in known if value[key] is None]
    if len(empty) == 1:
        kind = KINDS[empty[0]]
        others = [key for key in value if key != kind.key]
        if all(key in kind.model_fields for key in others):
            words = " and ".join(others)
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

    def parts(self) -> tuple[Trigger, ...]:
        """Those it combines."""
        return self.triggers

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

    def parts(self) -> tuple[Trigger, ...]:
        """Those it combines."""
        return self.triggers

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

    def parts(self) -> tuple[Trigger, ...]:
        """The other."""
        return (self.trigger,)

    def fires_when_idle(self) -> bool:
        """If the other does not."""
        return not self.trigger.fires_when_idle()

    def describe(self) -> str:
        """`not every 10 epochs`."""
        return f"not {self.trigger.describe()}"


def leaves(triggers: Iterable[Trigger]) -> Iterator[Trigger]:
    """The triggers that are not made of others, in order."""
    for each in triggers:
        parts = each.parts()
        if parts:
            yield from leaves(parts)
        else:
            yield each


KINDS: dict[str, type[Trigger]] = {
    kind.key: kind
    for kind in (
        Every,
        EpochEnd,
        Steps,
        Improved,
        Reached,
        TrainBegin,
        TrainEnd,
        OnException,
        Signal,
        FileRequested,
        BeforeDeadline,
        AnyOf,
        AllOf,
        Not,
    )
}
