"""A policy as a value, and what it decides at one tick."""

import copy
import pickle
from timeit import repeat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_savekit.base.moment import Moment, Tick
from keras_savekit.errors import PolicyError, SavekitError
from keras_savekit.policy.plan import Limits, Policy, SavePlan, decide
from keras_savekit.policy.rules.kinds import All, Best, Last
from keras_savekit.policy.triggers.metric import Improved
from keras_savekit.policy.triggers.schedule import Every, TrainEnd

quick = settings(deadline=None, derandomize=True, max_examples=60)

LATEST = SavePlan(name="latest", when=["every 20 steps", "train_end"], keep="last 3")
BEST = SavePlan(name="best", when="improved val_loss min", keep="best 1 val_loss min")
POLICY = Policy(plans=[LATEST, BEST], directory="runs/a")


def tick(before, now, event="step", memory=None, **logs):
    return Tick(Moment(step=before), Moment(step=now, logs=logs), event, memory or {})


def test_a_plan_says_short_strings_shapes_and_values_alike():
    spellings = [
        SavePlan(name="a", when="every 2 epochs", keep="last 3"),
        SavePlan(name="a", when=["every 2 epochs"], keep=["last 3"]),
        SavePlan(name="a", when={"every": {"epochs": 2}}, keep={"last": 3}),
        SavePlan(name="a", when=Every(epochs=2), keep=Last(count=3)),
        SavePlan(name="a", when=(Every(epochs=2),), keep=(Last(count=3),)),
    ]
    assert all(each == spellings[0] for each in spellings)


def test_a_plan_has_defaults_that_lose_nothing():
    plan = SavePlan(name="a", when="every epoch")
    assert (plan.save, plan.format, plan.keep) == ("model", "h5", (All(),))
    assert (plan.verify, plan.when_busy) == ("structure", "replace")
    assert SavePlan(name="a", when="every epoch", save="weights").format == "weights.h5"


def test_a_policy_has_defaults():
    policy = Policy(plans=[LATEST])
    assert (policy.version, policy.directory, policy.resume.mode) == (1, None, "auto")
    assert (policy.on_failure, policy.limits) == ("warn", Limits(queue=1))


def test_nothing_due_gives_no_plans_and_the_same_memory():
    memory = {"val_loss min 0": 0.5}
    decision = decide(POLICY, tick(3, 4, memory=memory))
    assert decision.due == ()
    assert decision.memory is memory


def test_each_plan_due_comes_with_its_reasons_in_the_order_of_the_policy():
    policy = Policy(plans=[BEST, SavePlan(name="x", when=["every 4 steps", "every 10 steps"])])
    decision = decide(policy, tick(19, 20, "epoch_end", val_loss=0.5))
    assert [(each.plan.name, each.reasons) for each in decision.due] == [
        ("best", ("val_loss has its first value, 0.5",)),
        ("x", ("every 4 steps", "every 10 steps")),
    ]


def test_memory_is_carried_from_tick_to_tick_and_the_ticks_own_is_not_changed():
    memory = {"other": 1.0}
    first = decide(POLICY, tick(0, 10, "epoch_end", memory, val_loss=0.5))
    second = decide(POLICY, tick(10, 19, "epoch_end", first.memory, val_loss=0.6))
    third = decide(POLICY, tick(19, 19, "epoch_end", second.memory, val_loss=0.4))
    assert memory == {"other": 1.0}
    assert first.memory == {"other": 1.0, "val_loss min 0": 0.5}
    assert (second.due, second.memory) == ((), first.memory)
    assert third.due[0].reasons == ("val_loss improved from 0.5 to 0.4",)


def test_a_trigger_learns_also_from_a_tick_at_which_no_save_is_due():
    rare = SavePlan(name="x", when={"all": ["improved val_loss min", "every 2 epochs"]})
    policy, memory, fired = Policy(plans=[rare]), {}, []
    for epoch, loss in ((1, 0.5), (2, 0.6), (3, 0.4), (4, 0.3)):
        moments = Moment(epoch=epoch - 1), Moment(epoch=epoch, logs={"val_loss": loss})
        decision = decide(policy, Tick(*moments, "epoch_end", memory))
        memory = decision.memory
        fired += [(epoch, *due.reasons) for due in decision.due]
    assert fired == [(4, "val_loss improved from 0.4 to 0.3 and every 2 epochs")]


def test_plans_with_equal_triggers_share_what_they_learned_and_both_fire():
    policy = Policy(plans=[BEST, SavePlan(name="x", when="improved val_loss min")])
    decision = decide(policy, tick(0, 1, "epoch_end", val_loss=0.5))
    assert [each.plan.name for each in decision.due] == ["best", "x"]
    assert decision.memory == {"val_loss min 0": 0.5}


@quick
@given(st.lists(st.floats(width=16), max_size=12), st.integers(0, 12))
def test_a_run_that_is_interrupted_decides_as_one_that_is_not(losses, cut):
    def run(values, memory):
        fired = []
        for value in values:
            decision = decide(POLICY, tick(0, 0, "epoch_end", memory, val_loss=value))
            memory = decision.memory
            fired.append([each.reasons for each in decision.due])
        return fired, memory

    before, memory = run(losses[:cut], {})
    after, _ = run(losses[cut:], dict(memory))
    assert before + after == run(losses, {})[0]


def test_a_policy_knows_its_metrics():
    plan = SavePlan(name="x", when="every epoch", keep="best 1 b max")
    assert Policy(plans=[LATEST]).metrics() == frozenset()
    assert Policy(plans=[BEST, plan]).metrics() == {"val_loss", "b"}


def test_a_policy_describes_itself_one_plan_a_line():
    weights = SavePlan(name="w", save="weights", when="every epoch", when_busy="wait")
    described = Policy(plans=[*POLICY.plans, weights], directory="runs/a").describe()
    assert described == (
        "in runs/a: resumes if it can; a failed save is reported; 1 save may wait\n"
        "latest: saves the whole model as .h5 every 20 steps, or when training ends;"
        " keeps the last 3; verifies structure\n"
        "best: saves the whole model as .h5 when val_loss improves (lower is better);"
        " keeps the best by val_loss (min); verifies structure\n"
        "w: saves the weights as .weights.h5 every epoch; training waits for it;"
        " keeps every one; verifies structure"
    )
    assert "elsewhere" in Policy(plans=[LATEST]).describe()


@pytest.mark.parametrize(
    ("resume", "words"),
    [
        ({"on_mismatch": "weights"}, "resumes if it can, from the weights alone where settings"),
        ({"mode": "required", "on_mismatch": "ignore"}, "must resume, also where settings have"),
        ({"mode": "never", "on_mismatch": "ignore"}, "never resumes; "),
    ],
)
def test_a_policy_says_what_becomes_of_a_checkpoint_of_other_settings(resume, words):
    plans = [{"name": "a", "when": "train_end"}]
    assert words in Policy(plans=plans, resume=resume).describe()


def test_a_policy_survives_writing_pickling_and_copying():
    assert Policy(**POLICY.model_dump(mode="json")) == POLICY
    assert Policy.model_validate_json(POLICY.model_dump_json()) == POLICY
    assert pickle.loads(pickle.dumps(POLICY)) == POLICY
    assert copy.deepcopy(POLICY) == POLICY
    assert hash(copy.copy(POLICY)) == hash(POLICY)
    assert POLICY.model_copy(update={"directory": "b"}).directory == "b"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": ""}, "name: must be 1 to 64 letters"),
        ({"name": "a/b"}, 'got "a/b"'),
        ({"name": "a\n"}, "name: must be 1 to 64 letters"),
        ({"name": "ä"}, "name: must be 1 to 64 letters"),
        ({"name": "x" * 65}, "name: must be 1 to 64 letters"),
        ({"name": None}, "name: must be text, got nothing"),
        ({"name": ["a"]}, "name: must be text, got a list"),
        ({"when": []}, "when: needs at least one trigger"),
        ({"when": None}, "when: must be a trigger"),
        ({"when": {"not": "every epoch"}}, "would save after every batch"),
        ({"when": ["train_end", {"any": [{"not": "train_end"}]}]}, "when[1]: would save"),
        ({"save": "modle"}, 'did you mean "model"'),
        ({"save": "weights", "format": "h5"}, "weights is saved as weights.h5, not h5"),
        ({"format": "weights.h5"}, "model is saved as h5 or keras, not weights.h5"),
        ({"save": "weights", "format": "keras"}, "weights is saved as weights.h5, not keras"),
        ({"verify": "deep"}, "must be bytes or structure or load or predict"),
        ({"when_busy": "wiat"}, 'did you mean "wait"'),
        ({"keep": "lasst 3"}, 'did you mean "last"'),
        ({"when": "improved a max", "keep": "best 1 a min"}, "use one mode for both"),
        ({"when": {"any": ["improved a max"]}, "keep": "best 1 a min"}, "use one mode"),
        (
            {
                "when": {"all": ["every epoch", {"not": "improved a max"}]},
                "keep": "best 1 a min",
            },
            "use one mode for both",
        ),
        ({"keeep": 1}, 'keeep: unknown key; did you mean "keep"'),
    ],
)
def test_a_wrong_plan_cannot_be_built(fields, message):
    with pytest.raises(PolicyError) as caught:
        SavePlan(**{"name": "a", "when": "every epoch", **fields})
    assert message in str(caught.value)


def test_a_plan_needs_a_name_and_a_trigger():
    with pytest.raises(PolicyError, match=r"2 problems.*\n.*name: is mis.*\n.*when: is mis"):
        SavePlan()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "plans: is missing"),
        ({"plans": []}, "plans: needs at least one plan"),
        ({"plans": {"a": {}}}, "plans: must be a list, each plan starting with - name"),
        ({"plans": [7]}, "plans[0]: must be a mapping (key: value), got 7"),
        ({"plans": [LATEST, LATEST]}, 'plans[1].name: "latest" is the name of plans[0] too'),
        ({"version": 2}, "version: must be 1, got 2"),
        ({"version": True}, "version: must be 1, got true"),
        ({"directory": ""}, "directory: must not be empty"),
        ({"directory": "\ud800"}, "directory: "),
        ({"directory": 3}, "directory: must be text, got 3; put it in quotes"),
        ({"resume": "always"}, "resume: must be auto or never or required"),
        ({"limits": {"queue": 0}}, "limits.queue: must be 1 or more, got 0"),
        ({"limits": {"que": 1}}, 'limits.que: unknown key; did you mean "queue"'),
        ({"on_failure": "warning"}, 'did you mean "warn"'),
    ],
)
def test_a_wrong_policy_cannot_be_built(fields, message):
    with pytest.raises(PolicyError) as caught:
        Policy(**({"plans": [LATEST], **fields} if fields else {}))
    assert message in str(caught.value)


def test_a_policy_error_belongs_to_the_tree_and_survives_pickling():
    with pytest.raises(SavekitError) as caught:
        Policy(plans=[])
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_values_are_frozen_and_rules_are_values():
    assert LATEST.when == (Every(steps=20), TrainEnd())
    assert BEST.when == (Improved(metric="val_loss", mode="min"),)
    assert BEST.keep == (Best(count=1, metric="val_loss", mode="min"),)
    with pytest.raises(ValueError, match="frozen"):
        LATEST.name = "other"


@pytest.mark.parametrize(("plans", "budget"), [(2, 10e-6), (100, 200e-6)])
def test_deciding_after_a_batch_costs_microseconds(plans, budget):
    policy = Policy(plans=[LATEST.model_copy(update={"name": f"p{i}"}) for i in range(plans)])
    moment = tick(3, 4, loss=0.5)
    best = min(repeat(lambda: decide(policy, moment), number=100, repeat=20)) / 100
    assert best < 3 * budget  # three times: a shared machine under load is no reason to fail
