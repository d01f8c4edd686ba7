"""What a policy would do in a training of some length, and what stock callbacks become."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_savekit.base.moment import Moment, Tick
from keras_savekit.errors import PolicyError
from keras_savekit.policy.forecast import forecast
from keras_savekit.policy.from_keras import from_keras
from keras_savekit.policy.plan import Policy, SavePlan, decide
from keras_savekit.policy.triggers.base import Length
from keras_savekit.policy.triggers.schedule import Every
from keras_savekit.policy.yaml.load import parse_policy

quick = settings(deadline=None, derandomize=True, max_examples=60)


def of(*when, keep="all", **length):
    plan = SavePlan(name="p", when=list(when), keep=keep)
    return forecast(Policy(plans=[plan]), Length(**{"steps_per_epoch": 10, "epochs": 3, **length}))


def steps(found):
    return [each.moment.step for each in found.fires]


@pytest.mark.parametrize(
    ("when", "fired"),
    [
        (["every 4 steps"], [4, 8, 12, 16, 20, 24, 28]),
        (["every 20 steps offset 5"], [5, 25]),
        (["every 4 steps first 15"], [16, 20, 24, 28]),
        (["every 2 epochs"], [20]),
        (["epoch_end 1 3", "steps 7 99"], [7, 10, 30]),
        (["train_begin", "train_end"], [0, 30]),
        (["exception", "improved loss min", "every 5 minutes"], []),
        ([{"all": ["every 5 steps", {"not": "every epoch"}]}], [5, 15, 25]),
    ],
)
def test_predictable_triggers_fire_as_in_a_training(when, fired):
    assert steps(of(*when)) == fired


def test_time_can_be_foreseen_where_a_step_has_one():
    assert steps(of("every 6 seconds", step_seconds=0.5)) == [12, 24]
    assert steps(of({"every": {"seconds": 6, "offset": 2}}, step_seconds=0.5)) == [4, 16, 28]
    assert steps(of({"every": {"seconds": 60, "offset": 30}}, step_seconds=0.5)) == []
    assert of("every 6 seconds", step_seconds=0.5).unknown["p"] == ()
    assert of("every 6 seconds").unknown["p"] == ("every 6 seconds",)


@quick
@given(st.integers(1, 12), st.integers(0, 11), st.integers(0, 40), st.integers(1, 9))
def test_a_forecast_is_what_deciding_at_every_step_gives(every, offset, first, per_epoch):
    plan = SavePlan(
        name="p",
        when=[
            {"every": {"steps": every, "offset": offset % every, "first": first}},
            "every 2 epochs",
        ],
    )
    policy = Policy(plans=[plan])
    before, fired = Moment(), []
    for step in range(1, per_epoch * 4 + 1):
        epoch, batch = divmod(step, per_epoch)
        now = Moment(epoch, batch, step)
        if decide(policy, Tick(before, now, "step" if batch else "epoch_end")).due:
            fired.append(step)
        before = now
    assert steps(forecast(policy, Length(per_epoch, 4))) == fired


def test_what_would_be_kept_is_told_and_what_nobody_can_know_too():
    found = of("every 4 steps", "improved a min", keep=["last 2", "every epoch", "best 1 a min"])
    assert found.kept == {"p": (12, 20, 24, 28)}
    assert found.unknown["p"] == (
        "when a improves (lower is better)",
        "what is kept as the best by a (min)",
    )
    assert of("every 4 steps", keep="best 1 a min").kept == {"p": (28,)}


def test_a_forecast_without_end_is_refused():
    with pytest.raises(PolicyError, match="ask about a shorter training"):
        of("every step", steps_per_epoch=10**9)


@pytest.mark.parametrize(
    ("callback", "policy"),
    [
        (
            "ModelCheckpoint('runs/a/best.h5', 'val_loss', save_best_only=True, mode='min')",
            (
                "{directory: runs/a, resume: never, plans: [{name: best,"
                " when: improved val_loss min, keep: best 1 val_loss min}]}"
            ),
        ),
        (
            (
                "keras.callbacks.ModelCheckpoint(filepath='{epoch:02d}.weights.h5',"
                " save_weights_only=True, verbose=1)"
            ),
            (
                "{directory: checkpoints, resume: never, plans: [{name: latest, save: weights,"
                " when: every epoch}]}"
            ),
        ),
        (
            "tf.keras.callbacks.ModelCheckpoint('/x/m.keras', save_freq=500)",
            (
                "{directory: /x, resume: never, plans: [{name: latest, format: keras,"
                " when: every 500 steps, keep: last 1}]}"
            ),
        ),
        (
            (
                "ModelCheckpoint('/{epoch}.h5', monitor='val_acc', save_best_only=True,"
                " save_freq=9, initial_value_threshold=0.5)"
            ),
            (
                "{directory: checkpoints, resume: never, plans: [{name: best, when: {all: ["
                "every 9 steps, improved: {metric: val_acc, mode: max, from: 0.5, at: step}]}}]}"
            ),
        ),
        (
            (
                "BackupAndRestore('runs/a', save_freq=7, double_checkpoint=True,"
                " delete_checkpoint=False)"
            ),
            "{directory: runs/a, plans: [{name: latest, when: every 7 steps, keep: last 2}]}",
        ),
        (
            "BackupAndRestore(backup_dir='runs/a')",
            "{directory: runs/a, plans: [{name: latest, when: every epoch, keep: last 1}]}",
        ),
    ],
)
def test_a_stock_callback_becomes_the_policy_that_does_the_same(callback, policy):
    found = from_keras(callback)
    assert found.policy == parse_policy(policy)
    assert parse_policy(found.to_yaml()) == found.policy
    assert found.to_yaml().startswith("# ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ModelCheckpoint(", "is not Python"),
        ("ModelCheckpoint('a', 'b\0')", "is not Python"),
        ("3", "is no call"),
        ("EarlyStopping()", '"EarlyStopping" is not known'),
        ("ModelChekpoint('a')", 'did you mean "ModelCheckpoint"'),
        ("ModelCheckpoint()", "filepath: is missing"),
        ("BackupAndRestore('')", "backup_dir: is missing"),
        ("ModelCheckpoint(path)", "column 17: filepath is path, which only the program knows"),
        ("ModelCheckpoint('a', moniter='x')", 'did you mean "monitor"'),
        ("ModelCheckpoint('a', **more)", "write each argument out"),
        ("ModelCheckpoint('a', filepath='b')", "filepath is given twice"),
        ("ModelCheckpoint('a', save_freq=0)", "save_freq must be 'epoch' or a whole number"),
        ("ModelCheckpoint('a', mode='up')", "mode must be 'auto', 'min' or 'max'"),
        ("ModelCheckpoint('a', monitor=3)", "monitor must be a text"),
        ("ModelCheckpoint('a', initial_value_threshold='x')", "must be a number"),
        ("BackupAndRestore(1, 2, 3, 4, 5)", "at most 4 arguments"),
        ("__import__('os').system('true')", '"system" is not known'),
    ],
)
def test_what_is_no_known_callback_is_told_and_never_run(text, message):
    with pytest.raises(PolicyError) as caught:
        from_keras(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [
        ("loss", "min"),
        ("val_mae", "min"),
        ("accuracy", "max"),
        ("val_AUC", "max"),
        ("fmeasure_1", "max"),
        ("val_fmeasure", "min"),
    ],
)
def test_the_mode_that_keras_guesses_by_the_name_of_the_metric_is_written_down(monitor, mode):
    found = from_keras(f"ModelCheckpoint('a.h5', monitor='{monitor}', save_best_only=True)")
    assert found.policy.plans[0].keep[0].mode == mode
    explicit = from_keras(f"ModelCheckpoint('a.h5', '{monitor}', save_best_only=True, mode='min')")
    assert explicit.policy.plans[0].keep[0].mode == "min"


@pytest.mark.parametrize(
    ("text", "column"), [("ModelCheckpoint(", 1), ("ModelCheckpoint('a', mode='big')", 27)]
)
def test_what_is_wrong_with_a_callback_is_told_with_its_column(text, column):
    with pytest.raises(PolicyError) as caught:
        from_keras(text)
    (problem,) = caught.value.problems
    assert (problem.line, problem.column) == (1, column)


@pytest.mark.parametrize(
    ("trigger", "steps"),
    [
        (Every(steps=5), [5, 10, 15, 20]),
        (Every(steps=5, offset=2), [2, 7, 12, 17]),
        (Every(epochs=1), []),
    ],
)
def test_a_trigger_foresees_its_steps_up_to_the_last_and_never_step_0(trigger, steps):
    assert list(trigger.foreseen(Length(steps_per_epoch=10, epochs=2))) == steps


def test_a_policy_is_written_as_people_write_it():
    text = "directory: läufe/a\nplans:\n- {name: p, save: model, when: every 2 steps}\n"
    assert "directory: läufe/a\n" in parse_policy(text).to_yaml()
