"""Trainings whose logs are no single numbers: saved, looked at, resumed."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_logs import same
from training_builders import STEPS, Interrupt, events, names, plan, policy

import keras_savekit as sk
from keras_savekit.cli import main as cli
from keras_savekit.store.run import RunDirectory

CLASSES = 3


def arrays():
    x = np.random.default_rng(3).normal(size=(22, 3)).astype(np.float32)
    return x, keras.utils.to_categorical(np.abs(x).argmax(axis=1), CLASSES)


def data():
    return sk.resumable(*arrays(), batch_size=4, seed=5)


def held_out():
    return tf.data.Dataset.from_tensor_slices(arrays()).batch(32)


def model(*metrics):
    keras.utils.set_random_seed(7)
    made = keras.Sequential([keras.Input((3,)), keras.layers.Dense(CLASSES, activation="softmax")])
    made.compile("adam", "categorical_crossentropy", metrics=list(metrics))
    return made


def train(directory, plans, *before, metrics=(), epochs=4, **arguments):
    kit = sk.SaveKit(policy(*plans), directory=directory, data=(on := data()))
    given = {"verbose": 0, "shuffle": False, "callbacks": [*before, kit], **arguments}
    history = model(*metrics).fit(on, epochs=epochs, **given)
    return history, kit


def logs_of(directory, step, name="p"):
    return RunDirectory(directory).open(f"{step:09d}-{name}").manifest.moment.logs


METRICS = {
    "f1_score": keras.metrics.F1Score,
    "fbeta_score": lambda: keras.metrics.FBetaScore(beta=2.0),
    "precision": lambda: keras.metrics.Precision(thresholds=[0.2, 0.5, 0.8], name="precision"),
    "r2_score": lambda: keras.metrics.R2Score(class_aggregation=None),
}


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_with_several_values_is_saved_and_resumed_with_an_equal_history(tmp_path, name):
    plans = (
        plan(f"improved val_{name}[0] max", keep=f"best 1 val_{name}[0] max"),
        plan("exception", name="latest"),
    )

    def run(directory, *before):
        return train(
            directory, plans, *before, metrics=[METRICS[name]()], validation_data=held_out(),
            validation_freq=2,
        )  # fmt: skip

    whole, _ = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(
            tmp_path / "cut",
            Interrupt(after=2 * STEPS + 3),
        )
    again, kit = run(tmp_path / "cut", Interrupt(after=100))
    assert kit.resumed.level == "exact"
    assert isinstance(again.history[name][0], np.ndarray)
    assert same(again.history, whole.history)
    assert (len(again.history[f"val_{name}"]), again.epoch) == (2, whole.epoch)
    (kept,) = (each for each in names(tmp_path / "cut") if each.endswith("-p"))
    assert [kept] == names(tmp_path / "whole")
    values = logs_of(tmp_path / "cut", int(kept[:9]))[f"val_{name}"]
    assert len(values) == CLASSES
    assert values[0] == max(float(each[0]) for each in whole.history[f"val_{name}"])


class Reports(keras.callbacks.Callback):
    """Puts values into the logs of every epoch, or of some."""

    def __init__(self, values, only=lambda epoch: True):
        super().__init__()
        self.values, self.only = values, only

    def on_epoch_end(self, epoch, logs=None):
        if self.only(epoch):
            logs.update(self.values(epoch) if callable(self.values) else self.values)

    def get_state(self):
        return {}

    def set_state(self, state):
        pass


ODD = {
    "cm": np.array([[1, 2], [3, 4]], np.int16),
    "half": np.float16(0.1),
    "tensor": tf.constant([1.0, np.nan]),
    "text": "warming up",
    "none": None,
    "nested": {"a": [1, (2.5, True)]},
    "count": 3,
}


def test_whatever_a_callback_reports_is_saved_and_in_the_history_after_a_resume(tmp_path, capsys):
    plans = (plan("every epoch"), plan("exception", name="latest"))
    whole, _ = train(tmp_path / "whole", plans, Reports(ODD))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", plans, Reports(ODD), Interrupt(after=STEPS + 2))
    again, _ = train(tmp_path / "cut", plans, Reports(ODD), Interrupt(after=100))
    assert list(again.history) == list(whole.history)
    for name in whole.history:
        first, other = again.history[name][0], whole.history[name][0]
        assert type(first) is type(other)
        assert same(*(each.numpy() if tf.is_tensor(each) else each for each in (first, other)))
    found = logs_of(tmp_path / "cut", STEPS)
    assert found["cm"] == ((1, 2), (3, 4))
    assert found["nested"] == {"a": (1, (2.5, True))}
    assert cli.run(["list", str(tmp_path / "cut")]) == 0
    assert (
        "cm=[[1 2] [3 4]] half=0.09998 tensor=[1 nan] text=warming up none=none"
        in capsys.readouterr().out
    )
    assert cli.run(["list", "--json", str(tmp_path / "cut")]) == 0
    assert '"NaN"' in capsys.readouterr().out
    assert [each["kind"] for each in events(tmp_path / "cut") if each["kind"] == "failed"] == []


def test_an_object_in_the_logs_is_kept_as_text_and_reported_once(tmp_path):
    with pytest.warns(sk.SavekitWarning, match="thing is or contains a value of type") as told:
        train(tmp_path, [plan("every epoch")], Reports({"thing": object()}))
    assert len(told) == 1
    assert len(names(tmp_path)) == 4
    assert logs_of(tmp_path, STEPS)["thing"].startswith("<object object")


def test_a_whole_vector_in_a_policy_is_refused_once_and_training_continues(tmp_path):
    plans = (plan("improved cm max", keep="best 1 cm max"), plan("every epoch", name="all"))
    with pytest.warns(
        sk.SavekitWarning, match=r"^cm has 4 values; name one, such as cm\[0\]\[0\]$"
    ):
        train(tmp_path, plans, Reports(ODD))
    assert names(tmp_path) == [f"{epoch * STEPS:09d}-all" for epoch in range(1, 5)]


def test_a_condition_looks_at_one_value_of_an_array(tmp_path):
    cm = Reports(lambda epoch: {"cm": np.eye(2) * epoch})
    train(tmp_path, [plan("reached cm[1][1] >= 2")], cm)
    assert names(tmp_path) == [f"{3 * STEPS:09d}-p"]


@pytest.mark.parametrize("freq", [3, [4]])
def test_an_epoch_without_a_validation_is_waited_through_without_a_word(tmp_path, freq):
    plans = [plan("improved val_loss min")]
    train(tmp_path, plans, validation_data=held_out(), validation_freq=freq)
    assert names(tmp_path) == [f"{STEPS * (3 if freq == 3 else 4):09d}-p"]


def test_a_validation_that_never_came_is_reported_when_training_ends(tmp_path):
    with pytest.warns(sk.SavekitWarning, match="uses val_loss, which was not reported"):
        train(
            tmp_path, [plan("improved val_loss min")], epochs=1,
            validation_data=held_out(), validation_freq=3,
        )  # fmt: skip


def test_a_misspelled_validation_metric_is_reported_after_the_first_validation(tmp_path):
    plans = [plan("improved val_los min")]
    with pytest.warns(sk.SavekitWarning, match='did you mean "val_loss"') as told:
        train(tmp_path, plans, validation_data=held_out(), validation_freq=2)
    assert len(told) == 1


def test_a_metric_that_comes_every_other_epoch_is_used_and_a_resume_does_not_miss_it(tmp_path):
    plans = (plan("improved score max", keep="best 1 score max"), plan("exception", name="latest"))
    score = Reports(lambda epoch: {"score": float(epoch)}, only=lambda epoch: epoch % 2 == 0)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, plans, score, Interrupt(after=STEPS + 2))
    train(tmp_path, plans, score, Interrupt(after=100))  # epoch 2 has no score
    assert f"{3 * STEPS:09d}-p" in names(tmp_path)
