"""When a save is due: truth tables for each trigger, and the law of crossing."""

import math
import pickle
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_savekit.base.moment import Moment, Tick
from keras_savekit.errors import PolicyError
from keras_savekit.policy.triggers.base import KINDS, Trigger
from keras_savekit.policy.triggers.combine import AllOf, AnyOf, Not
from keras_savekit.policy.triggers.metric import Improved
from keras_savekit.policy.triggers.registry import parse_trigger, read_trigger
from keras_savekit.policy.triggers.schedule import UNITS, Every, OnException, TrainEnd

quick = settings(deadline=None, derandomize=True, max_examples=80)


def steps(before, now, event="step"):
    return Tick(Moment(step=before), Moment(step=now), event)


def epochs(before, now):
    return Tick(Moment(epoch=before), Moment(epoch=now), "epoch_end")


def seconds(before, now):
    return Tick(Moment(seconds=before), Moment(seconds=now), "step")


def logged(event="epoch_end", memory=None, **logs):
    return Tick(Moment(), Moment(epoch=1, logs=logs), event, memory or {})


IDLE = steps(0, 0)
ACCURACY = Improved(metric="accuracy", mode="max")
LOSS = Improved(metric="loss", mode="min", min_delta=0.1)


@pytest.mark.parametrize(
    ("trigger", "tick", "reason"),
    [
        (Every(steps=10), steps(8, 9), None),
        (Every(steps=10), steps(9, 10), "every 10 steps"),
        (Every(steps=10), steps(10, 11), None),
        (Every(steps=10), steps(8, 12), "every 10 steps"),
        (Every(steps=10), steps(8, 40), "every 10 steps"),
        (Every(steps=10), steps(10, 10), None),
        (Every(steps=10), steps(12, 8), None),
        (Every(steps=1), steps(4, 5), "every step"),
        (Every(epochs=1), epochs(0, 1), "every epoch"),
        (Every(epochs=2), epochs(0, 1), None),
        (Every(epochs=2), epochs(1, 2), "every 2 epochs"),
        (Every(epochs=1), steps(8, 40), None),
        (Every(seconds=0.5), seconds(0.2, 0.4), None),
        (Every(seconds=0.5), seconds(0.4, 0.6), "every 0.5 seconds"),
        (Every(minutes=2), seconds(100, 119.9), None),
        (Every(minutes=2), seconds(119.9, 120), "every 2 minutes"),
        (Every(hours=1.5), seconds(5399, 5399.5), None),
        (Every(hours=1.5), seconds(5399, 5401), "every 1.5 hours"),
        (TrainEnd(), IDLE, None),
        (TrainEnd(), steps(0, 0, "train_end"), "training ended"),
        (OnException(), steps(0, 0, "train_end"), None),
        (OnException(), steps(0, 0, "exception"), "an exception stopped training"),
    ],
)
def test_a_trigger_gives_its_reason_or_none(trigger, tick, reason):
    assert trigger.reason(tick) == reason
    assert trigger.learn(tick) == {}
    assert trigger.metrics() == frozenset()


@quick
@given(
    every=st.integers(1, 50),
    start=st.integers(0, 200),
    jumps=st.lists(st.integers(0, 50), max_size=40),
)
def test_each_multiple_crossed_fires_once_however_steps_jump(every, start, jumps):
    trigger = Every(steps=every)
    positions = [start]
    for jump in jumps:
        positions.append(positions[-1] + min(jump, every))
    fired = sum(trigger.reason(steps(*pair)) is not None for pair in pairwise(positions))
    assert fired == positions[-1] // every - start // every


@quick
@given(every=st.integers(1, 20), start=st.integers(0, 100), jump=st.integers(0, 200))
def test_a_jump_over_several_multiples_fires_and_over_none_does_not(every, start, jump):
    crossed = any(position % every == 0 for position in range(start + 1, start + jump + 1))
    assert (Every(steps=every).reason(steps(start, start + jump)) is not None) == crossed
    assert (Every(epochs=every).reason(epochs(start, start + jump)) is not None) == crossed
    assert (Every(seconds=every).reason(seconds(start, start + jump)) is not None) == crossed


@quick
@given(unit=st.sampled_from(UNITS), count=st.integers(1, 10**6))
def test_every_reads_back_what_it_describes(unit, count):
    trigger = Every(**{unit: count})
    assert parse_trigger(trigger.describe()) == trigger


@quick
@given(unit=st.sampled_from(["seconds", "minutes", "hours"]), count=st.floats(1e-9, 1e15, width=64))
def test_every_reads_back_fractions_of_time(unit, count):
    trigger = Every(**{unit: count})
    assert parse_trigger(trigger.describe()) == trigger


@pytest.mark.parametrize(
    ("trigger", "tick", "reason"),
    [
        (ACCURACY, logged(accuracy=0.5), "accuracy has its first value, 0.5"),
        (ACCURACY, logged(accuracy=0.5, event="step"), None),
        (ACCURACY, logged(accuracy=0.5, event="train_end"), None),
        (ACCURACY, logged(other=0.5), None),
        (ACCURACY, logged(accuracy=math.nan), None),
        (ACCURACY, logged(accuracy=math.inf), None),
        (ACCURACY, logged(accuracy=-math.inf), None),
        (LOSS, logged(loss=math.inf), None),
        (LOSS, logged(loss=-math.inf), None),
        (
            ACCURACY,
            logged(accuracy=0.93, memory={"accuracy max 0": 0.91}),
            "accuracy improved from 0.91 to 0.93",
        ),
        (ACCURACY, logged(accuracy=0.91, memory={"accuracy max 0": 0.91}), None),
        (ACCURACY, logged(accuracy=0.90, memory={"accuracy max 0": 0.91}), None),
        (ACCURACY, logged(accuracy=math.nan, memory={"accuracy max 0": 0.91}), None),
        (
            ACCURACY,
            logged(accuracy=0.91000001, memory={"accuracy max 0": 0.91}),
            "accuracy improved from 0.91 to 0.91000001",
        ),
        (LOSS, logged(loss=0.5, memory={"loss min 0.1": 0.6}), None),
        (LOSS, logged(loss=0.4, memory={"loss min 0.1": 0.6}), "loss improved from 0.6 to 0.4"),
        (LOSS, logged(loss=0.4, memory={"loss min 0": 0.1}), "loss has its first value, 0.4"),
    ],
)
def test_improved_compares_finite_values_at_the_end_of_an_epoch(trigger, tick, reason):
    assert trigger.reason(tick) == reason
    learned = {} if reason is None else {trigger.memory_key: tick.now.logs[trigger.metric]}
    assert trigger.learn(tick) == learned


@quick
@given(
    values=st.lists(st.floats(), max_size=20),
    mode=st.sampled_from(["min", "max"]),
    min_delta=st.sampled_from([0.0, 0.5]),
)
def test_what_improved_remembers_is_finite_and_only_gets_better(values, mode, min_delta):
    trigger = Improved(metric="m", mode=mode, min_delta=min_delta)
    memory: dict[str, float] = {}
    bests: list[float] = []
    for value in values:
        tick = logged(m=value, memory=memory)
        learned = trigger.learn(tick)
        assert bool(learned) == (trigger.reason(tick) is not None)
        memory = {**memory, **learned}
        bests += learned.values()
    assert all(math.isfinite(best) for best in bests)
    assert bests == sorted(set(bests), reverse=mode == "min")
    if min_delta == 0 and any(math.isfinite(value) for value in values):
        pick = min if mode == "min" else max
        assert bests[-1] == pick(value for value in values if math.isfinite(value))


def test_two_improved_remember_under_different_keys_unless_they_are_equal():
    keys = {each.memory_key for each in (ACCURACY, LOSS, Improved(metric="loss", mode="min"))}
    assert keys == {"accuracy max 0", "loss min 0.1", "loss min 0"}


STEP, EPOCH = Every(steps=10), Every(epochs=1)
BOTH = Tick(Moment(step=9), Moment(step=10, epoch=1), "epoch_end")


@pytest.mark.parametrize(
    ("trigger", "at_step", "at_both", "at_nothing"),
    [
        (AnyOf(triggers=[STEP, EPOCH]), "every 10 steps", "every 10 steps; every epoch", None),
        (AllOf(triggers=[STEP, EPOCH]), None, "every 10 steps and every epoch", None),
        (Not(trigger=EPOCH), "not every epoch", None, "not every epoch"),
        (
            AllOf(triggers=[STEP, Not(trigger=EPOCH)]),
            "every 10 steps and not every epoch",
            None,
            None,
        ),
    ],
)
def test_combined_triggers_follow_their_truth_table(trigger, at_step, at_both, at_nothing):
    assert trigger.reason(steps(9, 10)) == at_step
    assert trigger.reason(BOTH) == at_both
    assert trigger.reason(IDLE) == at_nothing


@pytest.mark.parametrize(
    "trigger",
    [
        AnyOf(triggers=[ACCURACY, LOSS]),
        AllOf(triggers=[ACCURACY, LOSS]),
        AllOf(triggers=[Every(epochs=100), Not(trigger=AnyOf(triggers=[ACCURACY, LOSS]))]),
    ],
)
def test_combined_triggers_learn_what_their_parts_learn_even_when_they_do_not_fire(trigger):
    tick = logged(accuracy=0.5, loss=2.0)
    assert trigger.learn(tick) == {"accuracy max 0": 0.5, "loss min 0.1": 2.0}
    assert trigger.metrics() == {"accuracy", "loss"}


TRIGGERS = st.recursive(
    st.one_of(
        st.builds(lambda n: Every(steps=n), st.integers(1, 9)),
        st.builds(lambda n: Every(seconds=n), st.floats(0.1, 9)),
        st.builds(lambda delta: Improved(metric="m", mode="min", min_delta=delta), st.floats(0, 1)),
        st.just(TrainEnd()),
        st.just(OnException()),
    ),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3, unique=True).map(lambda some: AnyOf(triggers=some)),
        inner.filter(lambda each: not isinstance(each, Not)).map(lambda each: Not(trigger=each)),
    ),
    max_leaves=6,
)


@quick
@given(TRIGGERS)
def test_a_trigger_reads_back_what_it_writes(trigger):
    assert read_trigger(trigger.model_dump(mode="json")) == trigger
    assert pickle.loads(pickle.dumps(trigger)) == trigger
    assert hash(read_trigger(trigger)) == hash(trigger)


@quick
@given(TRIGGERS)
def test_what_fires_when_idle_is_known_beforehand(trigger):
    assert trigger.fires_when_idle() == (trigger.reason(IDLE) is not None)


@quick
@given(TRIGGERS, st.sampled_from(["step", "epoch_end", "train_end", "exception"]))
def test_a_trigger_fires_only_at_the_events_it_names(trigger, event):
    now = Moment(step=50, seconds=50.0, epoch=1, logs={"m": 1.0})
    if event not in ("step", "epoch_end"):  # no step passes at these
        now = Moment(seconds=50.0, logs={"m": 1.0})
    if trigger.reason(Tick(Moment(), now, event)) is not None:
        assert event in trigger.events()


@pytest.mark.parametrize(
    ("text", "trigger"),
    [
        ("every 200 steps", Every(steps=200)),
        ("every step", Every(steps=1)),
        ("every 1 epoch", Every(epochs=1)),
        ("  every   2\tepochs ", Every(epochs=2)),
        ("every 1e3 steps", Every(steps=1000)),
        ("every 10 minutes", Every(minutes=10)),
        ("every .5 hours", Every(hours=0.5)),
        ("improved val_loss min", Improved(metric="val_loss", mode="min")),
        ("improved acc max by 1e-3", Improved(metric="acc", mode="max", min_delta=0.001)),
        ("train_end", TrainEnd()),
        ("exception", OnException()),
    ],
)
def test_a_short_string_spells_a_trigger(text, trigger):
    assert parse_trigger(text) == trigger


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no trigger is written"),
        ("evry 2 steps", 'did you mean "every"'),
        ("whenever", "known: "),
        ("every", 'must be written like "every 200 steps"'),
        ("every 2 big steps", 'must be written like "every 200 steps"'),
        ("every 2 stepps", 'unknown unit "stepps"; did you mean "steps"'),
        ("every 2 blocks", "allowed: steps, epochs, seconds, minutes, hours"),
        ("every two steps", 'steps must be a number, got "two"'),
        ("every 2.5 epochs", "epochs must be a whole number, got 2.5"),
        ("every 0 steps", "steps must be 1 or more, got 0"),
        ("every -1 minutes", "minutes must be more than 0, got -1"),
        ("every 010 steps", 'got "010"'),
        ("every nan seconds", "must be a number"),
        ("every 1e999 seconds", "must be a finite number"),
        ("improved", 'must be written like "improved val_loss min"'),
        ("improved val_loss", "must end in min or max"),
        ("improved val_loss mim", "mode must be min or max"),
        ("improved val_loss min by -1", "min_delta must be 0 or more, got -1"),
        ("improved val_loss min 3", "got "),
        ("train_end now", 'takes no more words, got "now"'),
        ("any every 2 steps", "cannot be said in one line"),
    ],
)
def test_a_wrong_short_string_is_told_with_its_remedy(text, message):
    with pytest.raises(PolicyError) as caught:
        parse_trigger(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (Every, "needs exactly one of"),
        (lambda: Every(steps=1, hours=2), "got steps and hours"),
        (lambda: Every(steps=True), "steps: must be a number, got true"),
        (lambda: Every(epochs=2.5), "epochs: must be a whole number"),
        (lambda: Every(seconds=math.inf), "seconds: must be a finite number"),
        (lambda: Every(seconds=math.nan), "seconds: must be a finite number"),
        (lambda: Every(steps=10**400), "steps: must be a finite number"),
        (lambda: Every(stpes=3), 'stpes: unknown key; did you mean "steps"'),
        (lambda: Improved(metric="loss"), "mode: is missing: which way is better"),
        (lambda: Improved(metric="", mode="min"), "metric: must not be empty"),
        (lambda: Improved(metric=3, mode="min"), "metric: must be text, got 3"),
        (lambda: Improved(metric="a", mode="auto"), "mode: must be min or max"),
        (lambda: TrainEnd(at=3), "at: unknown key"),
        (lambda: AnyOf(triggers=[]), "needs at least one trigger"),
        (lambda: AllOf(triggers=[]), "needs at least one trigger"),
        (lambda: AnyOf(triggers=["train_end", TrainEnd()]), "same as entry 1"),
        (lambda: Not(trigger=Not(trigger=TrainEnd())), "not inside not"),
        (lambda: Not(trigger=None), "must be a trigger"),
        (lambda: AllOf(triggers=["train_end", "exception"]), "can never happen"),
        (lambda: AllOf(triggers=["every 2 epochs", "train_end"]), "can never happen"),
        (lambda: AllOf(triggers=["every 2 steps", "exception"]), "can never happen"),
        (lambda: AllOf(triggers=["train_end", "improved loss min"]), "can never happen"),
        (lambda: AllOf(triggers=["train_end", Not(trigger="train_end")]), "can never happen"),
        (lambda: read_trigger({}), "must be a trigger such as"),
        (lambda: read_trigger([]), "must be a trigger such as"),
        (lambda: read_trigger({"every": 5}), "every: must be written as {every: {steps: 200}}"),
        (lambda: read_trigger({"train_end": None}), "write train_end alone"),
        (lambda: read_trigger({"exception": 1}), "write exception alone"),
        (lambda: read_trigger({"every": None, "steps": 2}), "indent steps further"),
        (lambda: read_trigger({"every": None, "stps": 2}), "stps: unknown key"),
        (lambda: read_trigger({"every": 1, "improved": 2}), "several triggers in one entry"),
        (lambda: read_trigger({"not": {"any": ["x"]}}), "not.any[0]: no trigger is written"),
    ],
)
def test_a_senseless_trigger_cannot_be_built(build, message):
    with pytest.raises(PolicyError) as caught:
        build()
    assert message in str(caught.value)


def test_all_problems_of_a_trigger_come_together():
    with pytest.raises(PolicyError) as caught:
        read_trigger({"any": [{"every": {"steps": 0, "stepz": 1}}, {"improved": {}}]})
    paths = [each.path for each in caught.value.problems]
    assert paths == [
        "any[0].every.steps",
        "any[0].every.stepz",
        "any[1].improved.metric",
        "any[1].improved.mode",
    ]


def test_triggers_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Every(steps=3).steps = 4


@pytest.mark.parametrize("kind", KINDS.values())
def test_the_examples_that_messages_give_can_be_read(kind):
    example = {"train_end": "train_end", "exception": "exception"}.get(kind.key)
    if kind.spelling:
        assert isinstance(parse_trigger(kind.spelling), kind)
    assert example is None or example == kind.example
    assert issubclass(kind, Trigger)


@pytest.mark.parametrize(
    ("trigger", "words"),
    [
        (ACCURACY, "when accuracy improves (higher is better)"),
        (LOSS, "when loss improves by more than 0.1 (lower is better)"),
        (AnyOf(triggers=[STEP, TrainEnd()]), "(every 10 steps or when training ends)"),
        (AllOf(triggers=[STEP, Not(trigger=EPOCH)]), "(every 10 steps and not every epoch)"),
        (OnException(), "when an exception stops training"),
    ],
)
def test_a_trigger_describes_itself_in_english(trigger, words):
    assert trigger.describe() == words
