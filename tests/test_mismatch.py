"""Code that has changed since a checkpoint was saved: the policy says what is restored."""

import shutil

import keras
import numpy as np
import pytest
from training_builders import (
    STEPS,
    BatchLogs,
    Interrupt,
    data,
    fit,
    model,
    names,
    plan,
    policy,
)

import keras_savekit as sk
from keras_savekit.base.tensors import Variable
from keras_savekit.model.differences import match_variables

EPOCHS = 3
EVERY_STEP = policy(plan("every 1 step", when_busy="wait"))


def with_mismatch(on_mismatch):
    return {**EVERY_STEP, "resume": {"on_mismatch": on_mismatch}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The directory and the model of a training that stopped in its second epoch."""
    directory = tmp_path_factory.mktemp("run")
    trained, on = model(), data()
    kit = sk.SaveKit(EVERY_STEP, directory=directory, data=on)
    stopping = keras.callbacks.EarlyStopping("loss", patience=50)
    with pytest.raises(KeyboardInterrupt):
        fit(trained, kit, stopping, Interrupt(STEPS + 2), on=on, epochs=EPOCHS)
    return directory, trained


@pytest.fixture
def directory(run, tmp_path):
    return shutil.copytree(run[0], tmp_path / "run", symlinks=True)


class AtFirst(keras.callbacks.Callback):
    """Records the state of the model when the first batch begins."""

    seen = None

    def on_train_batch_begin(self, batch, logs=None):
        if self.seen is None:
            optimizer = [value.numpy() for value in self.model.optimizer.variables]
            self.seen = (self.model.get_weights(), optimizer)

    def get_state(self):
        return {}

    def set_state(self, state):
        pass


def resume(directory, on_mismatch, made, on=None):
    on = data() if on is None else on
    kit = sk.SaveKit(with_mismatch(on_mismatch), directory=directory, data=on)
    first, watched = AtFirst(), BatchLogs()
    stopping = keras.callbacks.EarlyStopping("loss", patience=50)
    fit(made, kit, stopping, first, watched, on=on, epochs=EPOCHS)
    return kit.resumed, first.seen, stopping


def equal(these, those):
    return all(np.array_equal(a, b) for a, b in zip(these, those, strict=True))


def faster(**changes):
    return model(seed=99, optimizer=keras.optimizers.Adam(0.5, **changes))


def test_the_weights_alone_resume_at_the_position_of_the_run_with_a_new_optimizer(run, directory):
    report, (weights, optimizer), stopping = resume(directory, "weights", faster())
    assert equal(weights, run[1].get_weights())
    slots = [value for value in optimizer if value.ndim]
    assert not any(value.any() for value in slots)
    assert report.level == "weights only"
    assert (report.moment.epoch, report.moment.batch, report.moment.step) == (1, 2, STEPS + 2)
    assert any("learning_rate was 0.001" in reason for reason in report.reasons)
    assert stopping.best < np.inf


def test_what_is_ignored_keeps_the_slots_and_the_learning_rate_of_the_code(run, directory):
    report, (weights, optimizer), _ = resume(directory, "ignore", faster())
    assert equal(weights, run[1].get_weights())
    before = [value.numpy() for value in run[1].optimizer.variables]
    assert float(optimizer[1]) == 0.5
    assert equal(optimizer[2:], before[2:])
    assert optimizer[0] == before[0] == STEPS + 2
    assert report.level == "position"
    assert report.reasons[0].endswith(
        "the optimizer's learning_rate was 0.0010000000474974513, is 0.5"
    )


def test_a_lowered_learning_rate_stays_when_another_setting_is_ignored(directory, tmp_path):
    made, on = model(), data()
    kit = sk.SaveKit(EVERY_STEP, directory=tmp_path / "lowered", data=on)
    halved = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    fit(made, kit, halved, on=on, epochs=1)
    other = model(seed=9, optimizer=keras.optimizers.Adam(beta_1=0.5))
    report = sk.restore(other, tmp_path / "lowered", on_mismatch="ignore")
    assert float(other.optimizer.learning_rate.numpy()) == pytest.approx(0.0005)
    assert report.level == "position"


def test_another_optimizer_starts_from_scratch_though_the_rest_resumes(run, directory):
    report, (weights, optimizer), _ = resume(directory, "ignore", model(optimizer="sgd", seed=99))
    assert equal(weights, run[1].get_weights())
    assert optimizer[0] == 0
    assert "the optimizer's variables start from scratch" in report.reasons


def grown(**names):
    keras.utils.set_random_seed(99)
    made = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, activation="relu", **names),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(5, name="added"),
            keras.layers.Dense(1),
        ]
    )
    made.compile("adam", "mse", metrics=["mae"])
    return made


def test_an_added_layer_starts_from_scratch_beside_the_weights_that_fit(run, directory):
    made = grown()
    initial = made.get_weights()
    report, (weights, _), _ = resume(directory, "ignore", made)
    saved = run[1].get_weights()
    assert equal(weights[:6], saved[:6])  # the first Dense and the normalization
    assert equal(weights[6:9], initial[6:9])
    assert np.array_equal(weights[9], saved[7])  # the bias, whose shape is as it was
    assert any("3 of 10 weights start from scratch" in reason for reason in report.reasons)
    assert "the optimizer's variables start from scratch" in report.reasons


def test_a_layer_renamed_is_named_and_by_default_nothing_is_changed(directory):
    made = grown(name="renamed")
    initial, before = made.get_weights(), names(directory)
    with pytest.raises(sk.MismatchError) as error:
        resume(directory, "error", made)
    assert "renamed/kernel float32[3, 4] in the model" in str(error.value)
    assert "resume: {on_mismatch: weights}" in str(error.value)
    assert equal(made.get_weights(), initial)
    assert names(directory) == before


def test_other_data_are_refused_until_the_policy_says_otherwise(directory):
    with pytest.raises(sk.MismatchError, match="batch_size was 4, is 8"):
        resume(directory, "error", model(seed=99), on=data(batch_size=8))
    report, _, _ = resume(directory, "ignore", model(seed=99), on=data(batch_size=8))
    assert (report.level, report.moment.epoch, report.moment.batch) == ("position", 1, 0)


def test_a_model_of_which_no_weight_fits_is_refused_in_any_case(directory):
    keras.utils.set_random_seed(1)
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(9, name="other")])
    other.compile("adam", "mse")
    for choice in ("weights", "ignore"):
        with pytest.raises(sk.MismatchError, match="no weight fits the model"):
            resume(directory, choice, other)


def test_restore_restores_what_fits_if_requested(run):
    made = grown()
    report = sk.restore(made, run[0], on_mismatch="weights")
    assert report.level == "weights only"
    assert equal(made.get_weights()[:6], run[1].get_weights()[:6])


def test_steps_continue_so_that_checkpoints_stay_in_order(directory):
    before = set(names(directory))
    resume(directory, "weights", faster())
    new = sorted(set(names(directory)) - before)
    assert new[0] == f"{STEPS + 3:09d}-p"
    assert max(before) < new[0]


def variables(*names_and_sizes):
    return [
        Variable("weight", index, name, (size,), "float32")
        for index, (name, size) in enumerate(names_and_sizes)
    ]


@pytest.mark.parametrize(
    ("saved", "live", "expected"),
    [
        ([("m/a/k", 1), ("m/b/k", 1)], [("n/b/k", 1), ("n/a/k", 1)], [1, 0]),
        ([("dense_4/k", 1), ("dense_5/k", 1)], [("dense/k", 1), ("dense_1/k", 1)], [0, 1]),
        # Which of the three is new?
        ([("dense/k", 1), ("dense_1/k", 1)], [("dense/k", 1)] * 3, [None, None, None]),
        ([("a/k", 1)], [("a/k", 2), ("b/k", 1)], [None, None]),
    ],
)
def test_weights_match_by_name_shape_and_dtype(saved, live, expected):
    assert match_variables(variables(*saved), variables(*live)) == expected
