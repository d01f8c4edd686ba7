"""How far to stretch the intervals between saves, so that saving keeps to its budget.

Pure: takes what was measured, returns the next state. Intervals are made longer
by powers of two, so that a stretched one fires at a part of the same multiples.
Triggers read the stretch from their tick; see `progress.Every`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

LARGEST = 2**20
# Seconds trained between two decisions: less says little about the cost.
WINDOW = 5.0
# Half the cost is expected of twice the interval, so only a quarter is safe to go back from.
_EASY = 0.25


@dataclass(frozen=True, slots=True)
class OverheadState:
    """What the governor decided last.

    stretch: how many times longer intervals are.
    trained, spent: the seconds trained and spent on saving when it decided.
    """

    stretch: int = 1
    trained: float = 0.0
    spent: float = 0.0


def next_state(pace: OverheadState, budget: float, trained: float, spent: float) -> OverheadState:
    """The pace from now on.

    budget: the share of the time trained that saving may take.
    trained, spent: seconds since the session began.

    Decides when something was spent and `WINDOW` seconds were trained since it
    last did, and when stretched intervals had the time to show what they cost.
    """
    time, cost = trained - pace.trained, spent - pace.spent
    over = cost > budget * max(time, WINDOW)
    if time < WINDOW and not over:
        return pace
    if over and pace.stretch < LARGEST:
        return OverheadState(pace.stretch * 2, trained, spent)
    if pace.stretch > 1 and cost < budget * _EASY * time and time > WINDOW * pace.stretch:
        return OverheadState(pace.stretch // 2, trained, spent)
    # A stretch waits for its own effect; without one, only the latest window counts.
    return replace(pace, trained=trained, spent=spent) if pace.stretch == 1 else pace
