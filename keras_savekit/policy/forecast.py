"""When the predictable triggers of a policy would fire, and what would then be kept.

The same `decide` and `prune` as in a training, over a training that only counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from keras_savekit.base.moment import Event, Moment, Tick
from keras_savekit.errors import PolicyError, Problem
from keras_savekit.policy.plan import Policy, SavePlan, decide
from keras_savekit.policy.rules.kinds import All, EveryNth, Last, Record, Rule, prune
from keras_savekit.policy.triggers.base import Trigger
from keras_savekit.policy.triggers.registry import leaves
from keras_savekit.policy.triggers.schedule import EpochEnd, Every, Steps, TrainBegin, TrainEnd

MAX_SAVES = 100_000
_COUNTED = (Every, EpochEnd, Steps, TrainBegin, TrainEnd)


@dataclass(frozen=True, slots=True)
class Length:
    """How long a training is.

    step_seconds: how long a step takes; None if nobody knows.
    """

    steps_per_epoch: int
    epochs: int
    step_seconds: float | None = None

    @property
    def steps(self) -> int:
        """All of them."""
        return self.steps_per_epoch * self.epochs


@dataclass(frozen=True, slots=True)
class Fire:
    """One predicted save."""

    plan: str
    moment: Moment
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a training of some length would save and keep.

    fires: in order.
    kept: the steps that each plan's checkpoints would have at the end.
    unknown: for each plan the triggers and rules that cannot be predicted, in English.
    """

    fires: tuple[Fire, ...]
    kept: Mapping[str, tuple[int, ...]]
    unknown: Mapping[str, tuple[str, ...]]


def forecast(policy: Policy, length: Length) -> Forecast:
    """What the predictable part of `policy` does in a training of this length.

    Raises PolicyError if it would save more than MAX_SAVES times.
    """
    fires: dict[tuple[str, int], Fire] = {}
    memory: Mapping[str, float] = {}
    before = Moment()
    for event, now in _moments(policy, length):
        decision = decide(policy, Tick(before, now, event, memory))
        before, memory = now, decision.memory
        for due in decision.due:  # one checkpoint for a plan and step, as in a training
            fires.setdefault((due.plan.name, now.step), Fire(due.plan.name, now, due.reasons))
    records = [_record(each) for each in fires.values()]
    pruning = prune(records, {plan.name: _foreseen(plan) for plan in policy.plans})
    kept = {
        plan.name: tuple(
            each.step for each in records if each.plan == plan.name and each.name in pruning.keep
        )
        for plan in policy.plans
    }
    unknown = {plan.name: _unknown(plan, length) for plan in policy.plans}
    return Forecast(tuple(fires.values()), kept, unknown)


def _moments(policy: Policy, length: Length) -> Iterator[tuple[Event, Moment]]:
    """Only those at which a trigger can fire: between them nothing is crossed."""
    seconds = length.step_seconds or 0.0
    triggers = list(leaves(trigger for plan in policy.plans for trigger in plan.when))
    steps = {epoch * length.steps_per_epoch for epoch in range(1, length.epochs + 1)}
    for each in triggers:
        steps.update(_steps_of(each, length))
        if len(steps) > MAX_SAVES:
            message = f"would save more than {MAX_SAVES} times; ask about a shorter training"
            raise PolicyError("the forecast", (Problem("", message),))
    yield "train_begin", Moment()
    for step in sorted(steps):
        epoch, batch = divmod(step, length.steps_per_epoch)
        moment = Moment(epoch, batch, step, step * seconds)
        yield "step" if batch else "epoch_end", moment
    yield "train_end", Moment(length.epochs, 0, length.steps, length.steps * seconds)


def _steps_of(trigger: Trigger, length: Length) -> list[int] | range:
    if isinstance(trigger, Steps):
        return [step for step in trigger.at if step <= length.steps]
    if not isinstance(trigger, Every) or trigger.epochs is not None:
        return []
    if trigger.steps is not None:
        start = int(trigger.offset) or trigger.steps
        return range(start, length.steps + 1, trigger.steps)[: MAX_SAVES + 1]
    if not length.step_seconds:
        return []
    period, offset = (each / length.step_seconds for each in trigger.period())
    count = min(int((length.steps - offset) // period), MAX_SAVES) if offset < length.steps else -1
    found = (math.ceil(offset + index * period) for index in range(count + 1))
    return [step for step in found if 0 < step <= length.steps]


def _foreseen(plan: SavePlan) -> tuple[Rule, ...]:
    """The rules whose outcome needs neither metrics, clocks nor sizes."""
    rules = tuple(each for each in plan.keep if isinstance(each, Last | EveryNth | All))
    return rules or (Last(count=1),)


def _unknown(plan: SavePlan, length: Length) -> tuple[str, ...]:
    unforeseen = [
        each.describe()
        for each in leaves(plan.when)
        if not isinstance(each, _COUNTED)
        or (isinstance(each, Every) and each.in_time() and not length.step_seconds)
    ]
    foreseen = _foreseen(plan)
    kept = [f"what is kept as {each.words()}" for each in plan.keep if each not in foreseen]
    return (*unforeseen, *kept)


def _record(fire: Fire) -> Record:
    moment = fire.moment
    return Record(
        name=f"{moment.step:09d}-{fire.plan}",
        plan=fire.plan,
        step=moment.step,
        logs={},
        verified=True,
        epoch=moment.epoch,
        seconds=moment.seconds,
    )
