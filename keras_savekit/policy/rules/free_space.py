"""Whether a checkpoint has room, and what may go first to make some.

Pure: sizes in, a plan with reasons out. Nothing is removed for a checkpoint
that would not fit even then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from keras_savekit.policy.plan import Limits
from keras_savekit.policy.rules.base import Record, Rule, by_age
from keras_savekit.policy.rules.prune import prune
from keras_savekit.policy.units import size_text


@dataclass(frozen=True, slots=True)
class FreeSpace:
    """What the limits say of one save.

    remove: names with reasons, oldest first, to be removed before it is written.
    refused: why it cannot be written, empty if it can; `remove` is then empty.
    """

    remove: Mapping[str, str]
    refused: str = ""


def free_space_for(
    coming: Record,
    records: Iterable[Record],
    rules: Mapping[str, tuple[Rule, ...]],
    limits: Limits,
    free: int,
) -> FreeSpace:
    """Whether `coming` can be written, and what goes first.

    coming: the checkpoint as predicted, with its size and when it would be made.
    records: all checkpoints of the run, each with its size.
    free: bytes that are free on the disk now.

    Only what the rules remove once `coming` is there may go, and never the newest
    verified checkpoint, since `coming` is not verified yet.
    """
    there = list(records)
    missing = _missing(coming, there, limits, free)
    if missing <= 0:
        return FreeSpace({})
    # Judged as if it were there already: it takes the place of the oldest of `last 3`.
    plan = prune([*there, replace(coming, verified=True)], rules, now=coming.created)
    newest = max((record for record in there if record.verified), key=by_age, default=None)
    remove: dict[str, str] = {}
    for record in sorted(there, key=by_age):
        if missing > 0 and record.name in plan.remove and record is not newest:
            remove[record.name] = f"to make room for {coming.name}: {plan.remove[record.name]}"
            missing -= record.bytes
    if missing > 0:
        return FreeSpace({}, _refusal(coming, limits, missing))
    return FreeSpace(remove)


def _missing(coming: Record, there: list[Record], limits: Limits, free: int) -> int:
    over_disk = 0
    if limits.disk is not None:
        over_disk = sum(record.bytes for record in there) + coming.bytes - limits.disk
    # Without a limit too: what does not fit is not begun.
    return max(over_disk, coming.bytes + (limits.free_space or 0) - free)


def _refusal(coming: Record, limits: Limits, missing: int) -> str:
    said = []
    if limits.disk is not None:
        said.append(f"disk: {size_text(limits.disk)}")
    if limits.free_space is not None:
        said.append(f"free_space: {size_text(limits.free_space)}")
    under = f" under limits.{' and limits.'.join(said)}" if said else " on the disk"
    return f"it needs {coming.bytes} bytes, and {missing} of them are missing{under}"
