"""Retention over one long history, rule by rule, as files that a person can read.

After a change that is meant: GOLDEN=write python -m pytest tests/test_policy_golden.py
"""

import os
from pathlib import Path

import pytest

from keras_savekit.policy.rules.base import Record
from keras_savekit.policy.rules.prune import prune
from keras_savekit.policy.rules.registry import read_rules

GOLDEN = Path(__file__).parent / "golden"
HOUR = 3600.0
NOW = 40 * HOUR

# A checkpoint an hour: 5 epochs, 500 steps, a loss that falls, rises, ties and once is NaN.
LOSSES = [9, 7, 5, 4, 4, float("nan"), 6, 3, 3, 3, 8, 2, 5, 5, 1, 4, 1, 9, 7, 2, 6, 6, 5, 0, 3]
HISTORY = [
    Record(
        name=f"{(index + 1) * 500:09d}-p",
        plan="p",
        step=(index + 1) * 500,
        logs={} if index == 10 else {"loss": float(loss)},
        verified=index not in (5, 23, 24),
        busy=index == 6,
        pinned=index == 2,
        epoch=(index + 1) * 5,
        seconds=(index + 1) * 0.7 * HOUR,
        created=(index + 10) * HOUR,
        bytes=(1 + index % 3) * 10**9,
    )
    for index, loss in enumerate(LOSSES)
]
RULES = {
    "last": "last 3",
    "best": "best 3 loss min",
    "best-last": "best 3 loss min last",
    "best-max": "best 2 loss max",
    "every-epochs": "every 20 epochs",
    "every-steps": "every 3000 steps",
    "every-hours": "every 4 hours",
    "newer-than": "newer_than 12h",
    "size": "size 7GB",
    "size-enough": "size 1TB",
    "all": "all",
    "union": ["last 2", "best 2 loss min", "every 50 epochs", {"newer_than": "10h"}],
}


def report(rules):
    pruning = prune(HISTORY, {"p": read_rules(rules)}, NOW)
    lines = [f"rules: {rules}", ""]
    for each in HISTORY:
        kept = pruning.keep.get(each.name)
        why = ", ".join(kept) if kept else pruning.remove[each.name]
        lines.append(f"{'keep  ' if kept else 'remove'} {each.name}  {why}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", RULES)
def test_retention_is_as_it_was_written_down(name):
    path = GOLDEN / f"retention-{name}.txt"
    if os.environ.get("GOLDEN") == "write":
        path.write_text(report(RULES[name]))
    assert report(RULES[name]) == path.read_text()


def test_there_is_no_file_without_a_rule():
    assert {path.stem for path in GOLDEN.glob("retention-*")} == {f"retention-{n}" for n in RULES}
