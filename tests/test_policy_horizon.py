"""Until when a policy need not be asked."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_policy_include import POLICIES

from keras_savekit.base.moment import Moment, Tick
from keras_savekit.policy.plan import decide, horizon, saves_periodically
from keras_savekit.policy.yaml.load import policy_from

NEVER = float("inf")


def policy(*when):
    return policy_from({"plans": [{"name": "p", "when": list(when)}]}, source="test")


@settings(deadline=None, derandomize=True, max_examples=150)
@given(
    POLICIES, st.integers(0, 500), st.floats(0, 1e5), st.integers(1, 40), st.sampled_from([1, 4])
)
def test_before_its_horizon_a_policy_has_nothing_to_say(policy, step, seconds, ahead, stretch):
    logs = {"loss": 0.1, "val_loss": 0.2, "accuracy": 0.9, "a": 2.0}
    before = Moment(0, step, step, seconds, logs)
    until = horizon(policy, before, stretch)
    for number in range(1, ahead + 1):
        now = Moment(0, step + number, step + number, seconds + 7.0 * number, logs)
        tick = Tick(before, now, "step", {}, interval_factor=stretch)
        if until.is_ahead_of(now):
            decision = decide(policy, tick)
            assert decision.due == ()
            assert decision.memory == {}


@pytest.mark.parametrize(
    ("when", "step", "seconds"),
    [
        (["every 200 steps"], 400, NEVER),
        (["every 200 steps offset 50"], 250, NEVER),
        (["steps 100 300 500"], 300, NEVER),
        (["every 2 minutes"], NEVER, 1080),
        (["every 200 steps", "every 2 minutes", "train_end"], 400, 1080),
        (["epoch_end 5", "every 3 epochs", "signal SIGTERM", "file NOW"], NEVER, NEVER),
        ([{"improved": {"metric": "loss", "mode": "min", "at": "step"}}], 0, 0),
        ([{"all": ["every 200 steps", {"not": "every 300 steps"}]}], 300, NEVER),
    ],
)
def test_the_horizon_is_the_next_time_that_something_may_be_due(when, step, seconds):
    until = horizon(policy(*when), Moment(0, 210, 210, 1000.0), 1)
    assert (until.step, until.seconds) == (step, seconds)


def test_a_stretched_interval_is_due_later():
    assert horizon(policy("every 200 steps"), Moment(0, 210, 210, 1.0), 4).step == 800


@pytest.mark.parametrize(
    ("when", "unasked"),
    [
        (["every 200 steps"], True),
        (["every epoch", "signal SIGTERM"], True),
        (["every 1h"], True),
        (["epoch_end 5"], True),
        ([{"improved": {"metric": "val_loss", "mode": "min"}}], True),
        (["signal SIGTERM", "file NOW", "train_end", "exception"], False),
        (["train_begin"], False),
    ],
)
def test_whether_saves_come_without_being_asked_for(when, unasked):
    assert saves_periodically(policy(*when)) is unasked
