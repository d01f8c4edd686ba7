"""Triggers that look at metrics, counts and the outside: truth tables and laws."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from keras_savekit.base import moment
from keras_savekit.base.moment import ExternalRequests, Moment, Tick
from keras_savekit.errors import PolicyError
from keras_savekit.policy.triggers.base import Length, Requests, Response, leaves
from keras_savekit.policy.triggers.combine import AnyOf, Not
from keras_savekit.policy.triggers.condition import parse_condition
from keras_savekit.policy.triggers.external import BeforeDeadline, FileRequested, Signal
from keras_savekit.policy.triggers.metric import Improved, Reached
from keras_savekit.policy.triggers.registry import parse_trigger, read_trigger
from keras_savekit.policy.triggers.schedule import EpochEnd, Every, Steps, TrainBegin

quick = settings(deadline=None, derandomize=True, max_examples=100)


def steps(before, now, stretch=1):
    return Tick(Moment(step=before), Moment(step=now), "step", interval_factor=stretch)


def epochs(before, now):
    return Tick(Moment(epoch=before), Moment(epoch=now), "epoch_end")


def logged(event="epoch_end", memory=None, **logs):
    return Tick(Moment(), Moment(epoch=1, logs=logs), event, memory or {})


def outside(memory=None, **seen):
    return Tick(Moment(), Moment(), "step", memory or {}, ExternalRequests(**seen))


OFFSET = Every(steps=100, offset=30)
LATER = Every(steps=100, first=250)
BOTH = Every(steps=100, offset=30, first=250)
DEADLINE = BeforeDeadline(at="env END", margin="5m")


def before_deadline(wall, memory=None, deadline=1000.0):
    return outside(memory, wall=wall, deadlines={"env END": deadline})


@pytest.mark.parametrize(
    ("trigger", "tick", "reason"),
    [
        (OFFSET, steps(0, 29), None),
        (OFFSET, steps(29, 30), "every 100 steps offset 30"),
        (OFFSET, steps(30, 129), None),
        (OFFSET, steps(99, 101), None),
        (OFFSET, steps(129, 500), "every 100 steps offset 30"),
        (LATER, steps(99, 100), None),
        (LATER, steps(199, 200), None),
        (LATER, steps(249, 251), None),
        (LATER, steps(299, 300), "every 100 steps first 250"),
        (BOTH, steps(229, 230), None),
        (BOTH, steps(329, 330), "every 100 steps offset 30 first 250"),
        (Every(steps=100), steps(99, 100, stretch=2), None),
        (Every(steps=100), steps(199, 200, 2), "every 100 steps, made 2 times longer"),
        (
            Every(epochs=1),
            Tick(Moment(), Moment(epoch=1), "epoch_end", interval_factor=8),
            "every epoch",
        ),
        (EpochEnd(at=[5, 10]), epochs(3, 4), None),
        (EpochEnd(at=[5, 10]), epochs(4, 5), "epoch 5"),
        (EpochEnd(at=[5, 10]), epochs(5, 6), None),
        (EpochEnd(at=[5, 10]), epochs(3, 20), "epoch 10"),
        (Steps(at=[1000]), steps(999, 1000), "step 1000"),
        (Steps(at=[1000]), steps(990, 1010), "step 1000"),
        (Steps(at=[1000]), steps(1000, 1001), None),
        (TrainBegin(), Tick(Moment(), Moment(), "train_begin"), "training begins"),
        (TrainBegin(), Tick(Moment(step=4), Moment(step=4), "train_begin"), None),
        (TrainBegin(), steps(0, 0), None),
        (Signal(names="SIGTERM"), outside(), None),
        (Signal(names="term"), outside(signals={"SIGTERM"}), "SIGTERM came"),
        (Signal(names="SIGTERM"), outside(signals={"SIGINT"}), None),
        (
            Signal(names=["SIGTERM", "SIGINT"]),
            outside(signals=frozenset(["SIGINT", "SIGTERM"])),
            "SIGTERM and SIGINT came",
        ),
        (FileRequested(name="NOW"), outside(), None),
        (FileRequested(name="NOW"), outside(files={"NOW"}), "the file NOW requested it"),
        (FileRequested(name="NOW"), outside(files={"OTHER"}), None),
    ],
)
def test_a_trigger_gives_its_reason_or_none(trigger, tick, reason):
    assert trigger.reason(tick) == reason
    assert trigger.learn(tick) == {}
    assert trigger.metrics() == frozenset()


@quick
@given(
    every=st.integers(2, 30),
    offset=st.integers(0, 29),
    first=st.integers(0, 120),
    start=st.integers(0, 100),
    jump=st.integers(0, 100),
)
def test_offset_and_first_move_and_delay_the_multiples(every, offset, first, start, jump):
    offset %= every
    due = [at for at in range(offset, 400, every) if at >= max(first, 1)]
    crossed = any(start < at <= start + jump for at in due)
    trigger = Every(steps=every, offset=offset, first=first)
    assert (trigger.reason(steps(start, start + jump)) is not None) == crossed
    assert parse_trigger(trigger.describe()) == trigger


@quick
@given(every=st.integers(1, 30), start=st.integers(0, 300), jump=st.integers(0, 30))
def test_a_stretched_interval_fires_at_a_part_of_the_same_steps(every, start, jump):
    trigger = Every(steps=every)
    longer = trigger.reason(steps(start, start + jump, 4)) is not None
    assert not longer or trigger.reason(steps(start, start + jump)) is not None


FROM = Improved(**{"metric": "a", "mode": "max", "from": 0.5})
BATCH = Improved(metric="a", mode="max", at="step")
LAST = Improved(metric="a", mode="max", keep="last")


@pytest.mark.parametrize(
    ("trigger", "tick", "reason"),
    [
        (FROM, logged(a=0.4), None),
        (FROM, logged(a=0.5), None),
        (FROM, logged(a=0.6), "a improved from 0.5 to 0.6"),
        (FROM, logged(a=0.6, memory={FROM.memory_key: 0.7}), None),
        (BATCH, logged("step", a=0.4), "a has its first value, 0.4"),
        (BATCH, logged("step", a=math.nan), None),
        (BATCH, logged("epoch_end", a=0.4), "a has its first value, 0.4"),
        (BATCH, logged("train_end", a=0.4), None),
        (LAST, logged(a=0.4, memory={LAST.memory_key: 0.4}), "a is 0.4 again"),
        (LAST, logged(a=0.3, memory={LAST.memory_key: 0.4}), None),
    ],
)
def test_improved_with_a_threshold_at_steps_and_with_ties(trigger, tick, reason):
    assert trigger.reason(tick) == reason
    assert trigger.learn(tick) == (
        {} if reason is None else {trigger.memory_key: tick.now.logs["a"]}
    )


def test_what_is_another_condition_remembers_under_another_key():
    plain = Improved(metric="a", mode="max")
    assert len({each.memory_key for each in (plain, FROM, BATCH, LAST)}) == 4


REACHED = Reached(condition="acc >= 0.9 and loss < 0.5")


@pytest.mark.parametrize(
    ("event", "logs", "held", "fires"),
    [
        ("epoch_end", {"acc": 0.95, "loss": 0.4}, False, True),
        ("epoch_end", {"acc": 0.95, "loss": 0.4}, True, False),
        ("epoch_end", {"acc": 0.85, "loss": 0.4}, False, False),
        ("epoch_end", {"acc": 0.95, "loss": math.nan}, False, False),
        ("epoch_end", {"acc": 0.95}, False, False),
        ("step", {"acc": 0.95, "loss": 0.4}, False, False),
    ],
)
def test_reached_fires_when_its_condition_becomes_true(event, logs, held, fires):
    tick = logged(event, {REACHED.memory_key: float(held)}, **logs)
    assert (REACHED.reason(tick) == f"reached {REACHED.condition}") == fires


def test_reached_fires_again_only_after_it_was_lost_and_a_missing_metric_changes_nothing():
    memory, fired = {}, []
    for acc in (0.95, 0.96, None, 0.97, 0.5, None, 0.95):
        tick = logged(memory=memory, **({} if acc is None else {"acc": acc, "loss": 0.0}))
        fired.append(REACHED.reason(tick) is not None)
        memory = {**memory, **REACHED.learn(tick)}
    assert fired == [True, False, False, False, False, False, True]


def test_reached_can_fire_at_every_look_while_it_is_true():
    trigger = Reached(condition="a > 1", fires="while_true", at="step")
    assert all(trigger.reason(logged("step", {trigger.memory_key: h}, a=2)) for h in (0.0, 1.0))
    assert trigger.metrics() == {"a"}
    assert Reached(condition="a > 1").events() == {"epoch_end"}


@pytest.mark.parametrize(
    ("text", "logs", "holds"),
    [
        ("a > 1", {"a": 2}, True),
        ("a > 1", {"a": 1}, False),
        ("a >= 1", {"a": 1}, True),
        ("a <= -1.5e0", {"a": -1.5}, True),
        ("1 < a", {"a": 2}, True),
        ("a == 1", {"a": 1}, True),
        ("a != 1", {"a": 1}, False),
        ("a != 1", {"a": math.nan}, True),
        ("a < b", {"a": 1, "b": 2}, True),
        ("not a > 1", {"a": 2}, False),
        ("not (a > 1 or b > 1)", {"a": 0, "b": 0}, True),
        ("a > 1 or b > 1 and c > 1", {"a": 2, "b": 0, "c": 0}, True),
        ("(a > 1 or b > 1) and c > 1", {"a": 2, "b": 0, "c": 0}, False),
        ("`my metric` > 1", {"my metric": 2}, True),
        ("val/top-5.acc > 1", {"val/top-5.acc": 2}, True),
        ("a > 1 or b > 1", {"a": 2}, None),
    ],
)
def test_a_condition_holds_does_not_or_is_unknown(text, logs, holds):
    assert parse_condition(text).holds(logs) is holds


@quick
@given(st.text(st.sampled_from("ab01.<>=!()`  andornot-+e"), max_size=30))
def test_any_text_is_a_condition_or_one_clear_error(text):
    try:
        condition = parse_condition(text)
    except PolicyError:  # anything else is raised
        return
    assert condition.holds(dict.fromkeys(condition.metrics, 1.0)) in (True, False)


def test_a_condition_nested_too_deeply_is_refused():
    with pytest.raises(PolicyError, match="nested too deeply"):
        parse_condition("(" * 5000 + "a > 1")


def test_a_deadline_fires_once_when_its_margin_begins_and_again_for_another():
    assert DEADLINE.reason(before_deadline(699)) is None
    assert DEADLINE.reason(before_deadline(700)) == "5m before the deadline"
    memory = DEADLINE.learn(before_deadline(700))
    assert DEADLINE.reason(before_deadline(800, memory)) is None
    assert DEADLINE.reason(before_deadline(4800, memory, deadline=5000.0)) is not None
    assert DEADLINE.reason(outside(wall=1e9)) is None


@pytest.mark.parametrize(
    ("at", "environ", "deadline"),
    [
        ("env END", {"END": "1700000000"}, 1.7e9),
        ("env END", {"END": "2030-01-31T18:00:00Z"}, 1896112800.0),
        ("env END", {}, None),
        ("env END", {"END": "soon"}, None),
        ("2030-01-31T18:00:00+01:00", {}, 1896109200.0),
        (1.7e9, {}, 1.7e9),
        (1700000000, {}, 1.7e9),
    ],
)
def test_a_deadline_is_a_time_seconds_or_a_variable_that_holds_one(at, environ, deadline):
    assert BeforeDeadline(at=at).deadline(environ) == deadline


@pytest.mark.parametrize(
    ("text", "trigger"),
    [
        ("every 1h30m", Every(seconds=5400)),
        ("every 200 steps offset 50 first 1000", Every(steps=200, offset=50, first=1000)),
        ("every epoch first 3", Every(epochs=1, first=3)),
        ("improved a max from 0.5", FROM),
        ("improved a max by 1 from 2", Improved(metric="a", mode="max", min_delta=1, from_=2)),
        ("reached a > 1 and b < 2", Reached(condition="a > 1 and b < 2")),
        ("epoch_end 5, 10", EpochEnd(at=[10, 5])),
        ("steps 1000", Steps(at=1000)),
        ("signal TERM sigusr1", Signal(names=["SIGTERM", "SIGUSR1"])),
        ("signal SIGUSR1 then continue", Signal(names="SIGUSR1", then="continue")),
        ("file SAVE_NOW", FileRequested(name="SAVE_NOW")),
        ("train_begin", TrainBegin()),
    ],
)
def test_a_short_string_spells_a_trigger(text, trigger):
    assert parse_trigger(text) == trigger


@pytest.mark.parametrize(
    ("trigger", "shape", "words"),
    [
        (OFFSET, {"every": {"steps": 100, "offset": 30.0}}, "every 100 steps offset 30"),
        (FROM, {"improved": {"metric": "a", "mode": "max", "from": 0.5}}, "improves from 0.5 ("),
        (BATCH, {"improved": {"metric": "a", "mode": "max", "at": "step"}}, "at any step"),
        (LAST, {"improved": {"metric": "a", "mode": "max", "keep": "last"}}, "or ties"),
        (REACHED, {"reached": REACHED.condition}, "is reached"),
        (
            Reached(condition="a > 1", fires="while_true"),
            {"reached": {"condition": "a > 1", "fires": "while_true"}},
            "at every epoch while a > 1",
        ),
        (EpochEnd(at=5), {"epoch_end": [5]}, "after epoch 5"),
        (Steps(at=[5, 9]), {"steps": [5, 9]}, "after steps 5, 9"),
        (TrainBegin(), "train_begin", "when training begins"),
        (Signal(names=["SIGINT"]), {"signal": ["SIGINT"]}, "which stops training"),
        (
            Signal(names=["SIGINT"], then="continue"),
            {"signal": {"names": ["SIGINT"], "then": "continue"}},
            "after which training continues",
        ),
        (FileRequested(name="NOW"), {"file": "NOW"}, "when the file NOW appears"),
        (
            DEADLINE,
            {"before_deadline": {"at": "env END", "margin": "5m"}},
            "5m before the deadline (env END)",
        ),
    ],
)
def test_a_trigger_is_written_as_yaml_says_it_and_described_in_english(trigger, shape, words):
    written = trigger.model_dump(mode="json")
    assert written == shape
    assert read_trigger(written) == trigger
    assert words in trigger.describe()


def test_steps_pass_in_batches_so_they_can_hold_together_with_others_that_do():
    both = read_trigger({"all": ["steps 6 9", "every 3 steps"]})
    assert both.events() == {"step", "epoch_end"}
    assert both.reason(steps(8, 9)) == "step 9 and every 3 steps"


def test_leaves_are_found_however_deep_they_stand():
    nested = [AnyOf(triggers=[OFFSET, Not(trigger=AnyOf(triggers=[FROM, REACHED]))]), LAST]
    assert list(leaves(nested)) == [OFFSET, FROM, REACHED, LAST]


def test_every_foresees_the_steps_at_which_it_fires():
    known = Length(steps_per_epoch=10, epochs=4, step_seconds=6.0)
    assert list(Every(minutes=2, offset=1).foreseen(known)) == [10, 30]
    assert list(Every(steps=15, offset=5).foreseen(known)) == [5, 20, 35]
    assert list(Every(epochs=1).foreseen(known)) == []
    assert Every(hours=1).foreseen(Length(steps_per_epoch=10, epochs=4)) is None


def test_triggers_combine_with_operators_as_in_yaml():
    every, end, first = read_trigger("every 2 steps"), read_trigger("train_end"), LAST
    assert (every | end | first) == read_trigger({"any": [every, end, first]})
    assert (every & ~end) == read_trigger({"all": [every, {"not": end}]})
    assert (every & (end | first)).parts()[1] == (end | first)
    with pytest.raises(PolicyError, match="not inside not says nothing"):
        _ = ~~every
    with pytest.raises(TypeError):
        _ = every | "train_end"


def test_a_plan_does_not_see_the_signals_that_it_has_served():
    tick = outside(
        signals=frozenset({"SIGTERM", "SIGUSR1"}), acknowledged=frozenset({("a", "SIGTERM")})
    )
    assert tick.for_plan("a").requests.signals == {"SIGUSR1"}
    assert tick.for_plan("b").requests.signals == {"SIGTERM", "SIGUSR1"}
    quiet = outside()
    assert quiet.for_plan("a") is quiet


@pytest.mark.parametrize(
    ("then", "words"),
    [
        ("stop", "when SIGTERM comes, which stops training, within 30s"),
        ("exit", "when SIGTERM comes, which stops training and ends the process, within 30s"),
        ("continue", "when SIGTERM comes, after which training continues, within 30s"),
    ],
)
def test_a_signal_says_what_comes_after_it(then, words):
    assert Signal(names=["SIGTERM"], then=then, grace="30s").describe() == words


def test_a_moment_with_more_names_than_any_training_has_is_refused_at_once():
    logs = {str(number): 0.0 for number in range(moment.MOST_NAMES + 1)}
    with pytest.raises(ValidationError, match="has 10001 names, more than 10000") as caught:
        TypeAdapter(Moment).validate_python({"logs": logs})
    assert TypeAdapter(Moment).validate_python({"logs": {"loss": 1.0}}) == Moment(logs={"loss": 1})
    assert caught.value.error_count() == 1


@pytest.mark.parametrize(
    ("trigger", "awaited"),
    [
        (Every(steps=10), Requests()),
        (Signal(names=["SIGTERM", "SIGUSR1"], grace="30s"),
         Requests(signals=("SIGTERM", "SIGUSR1"), grace=30.0)),
        (FileRequested(name="SAVE_NOW"), Requests(files=("SAVE_NOW",))),
        (DEADLINE, Requests(deadlines={"env END": 1000.0})),
    ],
)  # fmt: skip
def test_a_trigger_says_what_it_waits_for_from_outside(trigger, awaited):
    assert trigger.requests({"END": "1000"}) == awaited


CAME = {"signals": frozenset({"SIGTERM", "SIGHUP"}), "files": frozenset({"SAVE_NOW", "other"})}
ANSWERED = frozenset({"SIGTERM"})


@pytest.mark.parametrize(
    ("trigger", "response"),
    [
        (Every(steps=10), Response()),
        (Signal(names=["SIGTERM"]), Response(signals=ANSWERED, stop=True)),
        (Signal(names=["SIGTERM"], then="continue"), Response(signals=ANSWERED)),
        (Signal(names=["SIGTERM"], then="exit"), Response(signals=ANSWERED, stop=True, exit=True)),
        (Signal(names=["SIGUSR1"], then="exit"), Response()),
        (FileRequested(name="SAVE_NOW"), Response(files=frozenset({"SAVE_NOW"}))),
        (FileRequested(name="LATER"), Response()),
    ],
)
def test_a_trigger_answers_its_own_requests_and_no_others(trigger, response):
    assert trigger.response(outside(**CAME)) == response


@pytest.mark.parametrize("then", ["stop", "continue"])
def test_a_deadline_stops_training_when_it_fires_for_it_and_only_if_it_is_told_to(then):
    trigger = BeforeDeadline(at="env END", margin="5m", then=then)
    near, early = (outside(deadlines={"env END": 1000.0}, wall=wall) for wall in (700, 699))
    assert trigger.response(near) == Response(stop=then == "stop")
    assert trigger.response(early) == Response()
