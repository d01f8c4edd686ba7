"""Triggers made of other triggers: any, all, not."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BeforeValidator, model_validator

from keras_savekit.base.moment import Event, Tick
from keras_savekit.policy.fields import wrong
from keras_savekit.policy.triggers.base import ALL_EVENTS, Trigger, register
from keras_savekit.policy.triggers.registry import Triggers, read_trigger


@register
class AnyOf(Trigger):
    """When at least one of several fires."""

    key: ClassVar[str] = "any"
    example: ClassVar[str] = "{any: [{every: {steps: 200}}, train_end]}"
    body: ClassVar[str] = "triggers"

    triggers: Triggers

    def reason(self, tick: Tick) -> str | None:
        """The reasons of those that fire."""
        reasons = [why for part in self.triggers if (why := part.reason(tick)) is not None]
        return "; ".join(reasons) or None

    def parts(self) -> tuple[Trigger, ...]:
        """Those it combines."""
        return self.triggers

    def events(self) -> frozenset[Event]:
        """Those of all."""
        return frozenset().union(*(part.events() for part in self.triggers))

    def fires_when_idle(self) -> bool:
        """If one of them does."""
        return any(part.fires_when_idle() for part in self.triggers)

    def describe(self) -> str:
        """Return a text such as `(every 2 epochs or when training ends)`."""
        return f"({' or '.join(part.describe() for part in self.triggers)})"


@register
class AllOf(Trigger):
    """When several fire at the same tick."""

    key: ClassVar[str] = "all"
    example: ClassVar[str] = "{all: [{every: {epochs: 2}}, {not: {every: {epochs: 10}}}]}"
    body: ClassVar[str] = "triggers"

    triggers: Triggers

    @model_validator(mode="after")
    def _possible(self) -> AllOf:
        denied = [part.trigger for part in self.triggers if isinstance(part, Not)]
        if not self.events() or any(part in denied for part in self.triggers):
            raise wrong(
                f"can never happen: {' and '.join(part.describe() for part in self.triggers)};"
                " write {any: [...]} if one of them is enough"
            )
        return self

    def reason(self, tick: Tick) -> str | None:
        """The reasons of all, if all fire."""
        reasons: list[str] = []
        for part in self.triggers:
            why = part.reason(tick)
            if why is None:
                return None
            reasons.append(why)
        return " and ".join(reasons)

    def parts(self) -> tuple[Trigger, ...]:
        """Those it combines."""
        return self.triggers

    def events(self) -> frozenset[Event]:
        """Those they share."""
        return ALL_EVENTS.intersection(*(part.events() for part in self.triggers))

    def fires_when_idle(self) -> bool:
        """If each of them does."""
        return all(part.fires_when_idle() for part in self.triggers)

    def describe(self) -> str:
        """Return a text such as `(every 2 epochs and not every 10 epochs)`."""
        return f"({' and '.join(part.describe() for part in self.triggers)})"


@register
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
        """Return a text such as `not every 10 epochs`, if that does not fire."""
        return self.describe() if self.trigger.reason(tick) is None else None

    def parts(self) -> tuple[Trigger, ...]:
        """The other."""
        return (self.trigger,)

    def fires_when_idle(self) -> bool:
        """If the other does not."""
        return not self.trigger.fires_when_idle()

    def describe(self) -> str:
        """Return a text such as `not every 10 epochs`."""
        return f"not {self.trigger.describe()}"
