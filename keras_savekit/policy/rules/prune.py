"""Which checkpoints stay and which go, when every rule has chosen.

Pure: takes records and rules, returns a plan with reasons. `save.retention` applies it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from keras_savekit.policy.rules.base import Record, Rule, by_age


@dataclass(frozen=True, slots=True)
class Pruning:
    """What stays and what goes: each name with its reasons, oldest first."""

    keep: Mapping[str, tuple[str, ...]]
    remove: Mapping[str, str]


def prune(
    records: Iterable[Record],
    rules: Mapping[str, tuple[Rule, ...]],
    now: float | None = None,
) -> Pruning:
    """Return what the rules keep and what they let go.

    records: all checkpoints of the run, in any order.
    rules: plan name to its rules; the checkpoints of a plan without rules stay.
    now: seconds since 1970; without it, when the newest was made.

    These always stay: the newest verified checkpoint, pinned and
    busy ones, and those not yet verified.
    """
    ordered = sorted(records, key=by_age)
    if now is None:
        now = max((record.created for record in ordered), default=0.0)
    verified = [record for record in ordered if record.verified]
    reasons = {record.name: _unremovable(record) for record in ordered}
    if verified:
        reasons[verified[-1].name].insert(0, "newest verified")
    for plan in dict.fromkeys(record.plan for record in ordered):
        of_plan = [record for record in verified if record.plan == plan]
        for rule in rules.get(plan, ()):
            for name, reason in rule.chosen(of_plan, now).items():
                reasons[name].append(reason)
        if not rules.get(plan):
            for record in ordered:
                if record.plan == plan:
                    reasons[record.name].append(f'the policy has no plan "{plan}"')
    return Pruning(
        keep={name: tuple(why) for name, why in reasons.items() if why},
        remove={
            record.name: f"not in {', '.join(rule.describe() for rule in rules[record.plan])}"
            for record in ordered
            if not reasons[record.name]
        },
    )


def _unremovable(record: Record) -> list[str]:
    held = (
        (record.pinned, "pinned"),
        (record.busy, "in use"),
        (not record.verified, "not yet verified"),
    )
    return [reason for holds, reason in held if holds]
