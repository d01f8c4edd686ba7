"""What saving may cost: the governor of intervals, and room on the disk."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_savekit.policy.overhead import LARGEST, WINDOW, OverheadState, next_state
from keras_savekit.policy.plan import Limits
from keras_savekit.policy.rules.base import Record
from keras_savekit.policy.rules.free_space import free_space_for
from keras_savekit.policy.rules.kinds import Last

quick = settings(deadline=None, derandomize=True, max_examples=100)


@pytest.mark.parametrize(
    ("pace", "trained", "spent", "stretch"),
    [
        (OverheadState(), 1, 0.01, 1),
        (OverheadState(), 1, 1.0, 2),
        (OverheadState(), 10, 0.4, 1),
        (OverheadState(), 10, 0.6, 2),
        (OverheadState(2, 10, 0.6), 20, 0.6, 2),
        (OverheadState(2, 10, 0.6), 21, 0.6, 1),
        (OverheadState(2, 10, 0.6), 30, 2.0, 4),
        (OverheadState(LARGEST, 10, 0.6), 30, 9.0, LARGEST),
    ],
)
def test_intervals_double_above_the_budget_and_halve_far_below_it(pace, trained, spent, stretch):
    assert next_state(pace, 0.05, trained, spent).stretch == stretch


def test_a_budget_that_is_spent_to_the_last_is_kept():
    assert next_state(OverheadState(), 0.5, 10, 5.0).stretch == 1
    assert next_state(OverheadState(), 0.5, 10, 5.5).stretch == 2


@quick
@given(st.floats(0.01, 2.0), st.floats(0.02, 0.3))
def test_in_the_long_run_saving_keeps_to_its_budget(cost, budget):
    """One save a second, if nothing stretches it, each with the same cost."""
    pace, spent, saved = OverheadState(), 0.0, 0.0
    seconds = 4000
    for second in range(1, seconds):
        if second - saved >= pace.stretch:
            saved, spent = second, spent + cost
        pace = next_state(pace, budget, second, spent)
        assert pace.stretch & (pace.stretch - 1) == 0
    # What the first intervals cost before anything was known is on top.
    assert spent <= budget * seconds * 1.3 + 30 * cost


def test_a_cheap_save_never_stretches_anything():
    pace = OverheadState()
    for second in range(1, 500):
        pace = next_state(pace, 0.05, second, second * 0.01)
    assert pace.stretch == 1
    assert pace.trained >= 500 - 1 - WINDOW


def record(step, size=100, *, verified=True, **fields):
    name = f"{step:09d}-p"
    return Record(name, "p", step, {}, verified, bytes=size, created=float(step), **fields)


RECORDS = [record(1), record(2), record(3)]
RULES = {"p": (Last(count=3),)}
COMING = record(4, verified=False)


@pytest.mark.parametrize(
    ("limits", "free", "removed", "refused"),
    [
        ({"disk": 400}, 1000, [], ""),
        ({"disk": 399}, 1000, [1], ""),
        ({"disk": 300}, 1000, [1], ""),
        ({"disk": 299}, 1000, [], "1 of them are missing under limits.disk: 299B"),
        ({"free_space": 50}, 150, [], ""),
        ({"free_space": 50}, 149, [1], ""),
        ({"free_space": 50}, 40, [], "limits.free_space: 50B"),
        ({"disk": 10, "free_space": 50}, 40, [], "limits.disk: 10B and limits.free_space: 50B"),
        ({}, 99, [1], ""),
        ({}, -100, [], "100 of them are missing on the disk"),
    ],
)
def test_room_is_made_of_what_the_rules_let_go_or_the_save_is_refused(
    limits, free, removed, refused
):
    room = free_space_for(COMING, RECORDS, RULES, Limits(**limits), free)
    assert [int(name.split("-")[0]) for name in room.remove] == removed
    assert refused in room.refused
    assert bool(room.refused) == bool(refused)


def test_room_is_never_made_of_what_is_pinned_busy_unverified_or_the_newest_verified():
    rules = {"p": (Last(count=1),)}
    kept = [record(1, pinned=True), record(2, busy=True), record(3), record(4, verified=False)]
    assert free_space_for(record(5), kept, rules, Limits(disk=200), 10**6).refused
    free = free_space_for(record(5), [record(0), *kept], rules, Limits(disk=500), 10**6)
    assert list(free.remove) == ["000000000-p"]
    assert "to make room for 000000005-p: not in last 1" in free.remove["000000000-p"]


def test_a_save_that_is_not_verified_yet_never_evicts_the_newest_verified_checkpoint():
    rules = {"p": (Last(count=1),)}
    room = free_space_for(record(2), [record(1)], rules, Limits(disk=100), 10**6)
    assert (dict(room.remove), bool(room.refused)) == ({}, True)
    later = [record(1), record(2), record(3, verified=False)]
    room = free_space_for(record(4), later, rules, Limits(disk=300), 10**6)
    assert list(room.remove) == ["000000001-p"]


@pytest.mark.parametrize(
    ("disk", "removed"),
    [(400, []), (399, [1]), (300, [1]), (299, [1, 2]), (200, [1, 2]), (199, None)],
)
def test_room_is_made_of_the_oldest_first_and_never_of_the_newest_verified(disk, removed):
    room = free_space_for(COMING, RECORDS, {"p": (Last(count=1),)}, Limits(disk=disk), 10**6)
    assert bool(room.refused) == (removed is None)
    assert [int(name.split("-")[0]) for name in room.remove] == (removed or [])


def test_both_limits_of_the_disk_hold_whichever_asks_for_more():
    limits = Limits(disk=399, free_space=50)
    for free, removed in ((1000, 1), (149, 1), (49, 2)):
        room = free_space_for(COMING, RECORDS, {"p": (Last(count=1),)}, limits, free)
        assert len(room.remove) == removed


def test_without_any_checkpoint_there_is_room_or_there_is_not():
    assert free_space_for(COMING, [], RULES, Limits(disk=100), 10**6).remove == {}
    assert free_space_for(COMING, [], RULES, Limits(disk=99), 10**6).refused
