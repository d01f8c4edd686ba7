"""When the predictable triggers of a policy would fire, and what would then be kept.

The same `decide` and `prune` as in a training, over a training that only counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from keras_savekit.base.moment import Event, Moment, Tick
from keras_savekit.errors import PolicyError, Problem
from keras_savekit.policy.plan import Policy, SavePlan, decide
from keras_savekit.policy.rules.base import Record, Rule
from keras_savekit.policy.rules.kinds import Last
from keras_savekit.policy.rules.prune import prune
from keras_savekit.policy.triggers.base import Length, leaves

MAX_SAVES = 100_000


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
    records = [_record(fire) for fire in fires.values()]
    pruning = prune(records, {plan.name: _foreseen(plan) for plan in policy.plans})
    kept = {
        plan.name: tuple(
            record.step
            for record in records
            if record.plan == plan.name and record.name in pruning.keep
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
    for trigger in triggers:
        steps.update(islice(trigger.foreseen(length) or (), MAX_SAVES + 1))
        if len(steps) > MAX_SAVES:
            message = f"would save more than {MAX_SAVES} times; ask about a shorter training"
            raise PolicyError("the forecast", (Problem("", message),))
    yield "train_begin", Moment()
    for step in sorted(steps):
        epoch, batch = divmod(step, length.steps_per_epoch)
        moment = Moment(epoch, batch, step, step * seconds)
        yield "step" if batch else "epoch_end", moment
    yield "train_end", Moment(length.epochs, 0, length.steps, length.steps * seconds)


def _foreseen(plan: SavePlan) -> tuple[Rule, ...]:
    """Return the rules whose choice needs neither metrics, clocks nor sizes."""
    return tuple(rule for rule in plan.keep if rule.foreseeable) or (Last(count=1),)


def _unknown(plan: SavePlan, length: Length) -> tuple[str, ...]:
    when = [trigger.describe() for trigger in leaves(plan.when) if trigger.foreseen(length) is None]
    keep = [f"what is kept as {rule.words()}" for rule in plan.keep if not rule.foreseeable]
    return (*when, *keep)


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
