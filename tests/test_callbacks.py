"""The callbacks in a real `fit`: what a user gets, and what is reported."""

import json
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from training_builders import (
    BATCH,
    STEPS,
    BatchLogs,
    Interrupt,
    arrays,
    damage_steps,
    data,
    digest,
    events,
    fit,
    held_out,
    model,
    names,
    plan,
    policy,
    wait_until,
)

import keras_savekit as sk
from keras_savekit.store import syscalls
from keras_savekit.store.run import RunDirectory
from keras_savekit.store.run_writer import RunWriter


def manifest(directory: Path, name: str):
    return json.loads((directory / "checkpoints" / name / "manifest.json").read_text())


def test_every_checkpoint_that_is_due_is_saved_verified_and_listed(tmp_path):
    kit = sk.SaveKit(policy(plan("every 4 steps", when_busy="wait")), directory=tmp_path)
    fit(model(), kit)
    assert names(tmp_path) == ["000000004-p", "000000008-p", "000000012-p"]
    found = RunDirectory(tmp_path).checkpoints()
    assert [each.status for each in found] == ["verified"] * 3
    assert [each.manifest.reasons for each in found] == [("every 4 steps",)] * 3
    assert [each.manifest.moment.batch for each in found] == [4, 2, 0]
    assert [each.manifest.moment.epoch for each in found] == [0, 1, 2]
    assert (tmp_path / "latest").resolve().name == "000000012-p"


class Ready(keras.callbacks.Callback):
    """Whether memory and the process that loads were there before the first batch."""

    def __init__(self, kit):
        super().__init__()
        self.kit, self.seen = kit, None

    def on_train_batch_begin(self, batch, logs=None):
        if self.seen is None:
            pipeline = self.kit.session._pipeline
            self.seen = pipeline._buffer._mapping is not None, bool(pipeline._verifier.checker.pid)

    def get_state(self):
        return {}

    def set_state(self, state):
        pass


@pytest.mark.parametrize(
    ("when", "verify", "ready"),
    [
        ("every 4 steps", "bytes", (True, False)),
        ("every epoch", "load", (True, True)),
        (["signal SIGUSR1", "exception"], "load", (False, False)),
    ],
)
def test_what_saves_need_is_made_ready_before_the_first_step_where_some_will_come(
    tmp_path, when, verify, ready
):
    kit = sk.SaveKit(policy(plan(when, verify=verify)), directory=tmp_path)
    watch = Ready(kit)
    fit(model(), kit, watch, epochs=1)
    assert watch.seen == ready


def test_two_plans_save_side_by_side_and_each_keeps_its_own(tmp_path):
    latest = plan(["every 2 steps", "train_end"], "latest", keep="last 2", when_busy="wait")
    best = plan("improved loss min", "best", save="weights", keep="best 1 loss min")
    fit(model(), sk.SaveKit(policy(latest, best), directory=tmp_path), epochs=3)
    kept = names(tmp_path)
    assert [name for name in kept if "latest" in name] == ["000000016-latest", "000000018-latest"]
    (best_name,) = [name for name in kept if "best" in name]
    assert (tmp_path / "best").resolve().name == best_name
    files = {each.name for each in (tmp_path / "best").iterdir()}
    assert {"model.weights.h5", "model.json", "state.h5", "manifest.json"} <= files


def test_what_was_removed_is_logged_with_the_reason_after_the_plan_to_do_so(tmp_path):
    kit = sk.SaveKit(
        policy(plan("every 4 steps", keep="last 1", when_busy="wait")), directory=tmp_path
    )
    fit(model(), kit)
    removed = events(tmp_path, "removed")
    assert [each["name"] for each in removed] == ["000000004-p", "000000008-p"]
    log = events(tmp_path)
    for each in removed:
        before = log[: log.index(each)]
        planned = [e for e in before if e["kind"] == "retention"][-1]
        assert planned["remove"][each["name"]] == each["reason"]


def test_the_model_file_is_the_state_of_that_step_and_loads_in_stock_keras(tmp_path):
    made = model()
    fit(made, sk.SaveKit(policy(plan("train_end")), directory=tmp_path))
    loaded = keras.models.load_model(tmp_path / "latest" / "model.h5")
    for ours, theirs in zip(made.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    loaded.fit(*arrays(), batch_size=BATCH, verbose=0)  # stock's own .h5 could not be trained on


def test_saving_does_not_change_the_training(tmp_path):
    with_kit, without = model(), model()
    fit(with_kit, sk.SaveKit(policy(plan("every 1 steps")), directory=tmp_path))
    without.fit(data(), epochs=2, verbose=0, shuffle=False)
    assert digest(with_kit) == digest(without)


def test_the_model_is_left_as_it_was_but_for_its_training(tmp_path):
    made = model()
    made.fit(data(), verbose=0, shuffle=False)
    before, compiled = set(vars(made)), made.get_compile_config()
    fit(made, sk.SaveKit(policy(), directory=tmp_path))
    assert set(vars(made)) == before
    assert made.get_compile_config() == compiled
    assert "optimizer" in compiled


def test_no_thread_outlives_the_training(tmp_path):
    fit(model(), sk.SaveKit(policy(), directory=tmp_path))
    assert not [each for each in threading.enumerate() if each.name.startswith("savekit")]


def test_steps_per_execution_counts_every_batch(tmp_path):
    kit = sk.SaveKit(policy(plan("every 4 steps", when_busy="wait")), directory=tmp_path)
    fit(model(steps_per_execution=2), kit)
    assert names(tmp_path) == ["000000004-p", "000000008-p", "000000012-p"]


def test_a_batch_that_ends_an_epoch_is_one_checkpoint_with_all_logs(tmp_path):
    kit = sk.SaveKit(policy(plan("every epoch")), directory=tmp_path)
    fit(model(), kit, epochs=1, validation_data=held_out())
    logs = manifest(tmp_path, "000000006-p")["moment"]["logs"]
    assert set(logs) == {"loss", "mae", "val_loss", "val_mae"}


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_data_of_unknown_length_counts_only_steps_that_were(tmp_path):
    unknown = data().filter(lambda x, y: True)
    kit = sk.SaveKit(policy(plan("every epoch")), directory=tmp_path)
    fit(model(), kit, on=unknown, epochs=2)
    assert names(tmp_path) == ["000000006-p", "000000012-p"]


def test_arrays_and_validation_and_class_weights_are_trained_on_as_ever(tmp_path):
    x, y = arrays()
    kit = sk.FullModelSaver(tmp_path, "every epoch", "last 1")
    labels = (y[:, 0] > 0).astype(int)
    made = model(loss="binary_crossentropy", metrics=["accuracy"])
    made.fit(
        x, labels, batch_size=BATCH, epochs=2, verbose=0, validation_split=0.25,
        class_weight={0: 1.0, 1: 2.0}, callbacks=[kit],
    )  # fmt: skip
    assert names(tmp_path) == ["000000008-model"]


def test_the_savers_are_one_plan_without_a_file(tmp_path):
    fit(model(), sk.FullModelSaver(tmp_path / "a", "every 2 epochs", "last 3"), epochs=4)
    assert names(tmp_path / "a") == ["000000012-model", "000000024-model"]
    saver = sk.WeightsSaver(tmp_path / "b", when=["improved loss min"], keep="best 2 loss min")
    fit(model(), saver)
    assert all(name.endswith("-weights") for name in names(tmp_path / "b"))


# What is reported.


def test_a_kit_that_is_not_last_says_so(tmp_path):
    kit = sk.SaveKit(policy(), directory=tmp_path)
    late = keras.callbacks.EarlyStopping("loss")
    with pytest.warns(sk.SavekitWarning, match=r"EarlyStopping comes after.*put it last"):
        model().fit(data(), verbose=0, shuffle=False, callbacks=[kit, late])


def test_a_vocabulary_that_stock_keras_would_not_read_is_reported_once(tmp_path):
    lookup = keras.layers.StringLookup()
    lookup.adapt(tf.constant(["a", "b"]))
    inputs = keras.Input((1,), dtype="string")
    outputs = keras.layers.Dense(1)(keras.layers.Embedding(3, 2)(lookup(inputs)))
    made = keras.Model(inputs, outputs)
    made.compile("sgd", "mse")
    words = tf.constant([["a"], ["b"], ["c"], ["a"]])
    kit = sk.SaveKit(policy(plan("every 1 steps", when_busy="wait")), directory=tmp_path)
    with pytest.warns(sk.SavekitWarning, match=r"vocabularies of .*string_lookup") as told:
        made.fit(words, np.zeros((4, 1, 1)), batch_size=2, verbose=0, callbacks=[kit])
    assert len(told) == 1


def test_an_unbuilt_model_is_refused_before_the_first_step(tmp_path):
    made = keras.Sequential([keras.layers.Dense(1)])
    made.compile("sgd", "mse")
    watched = BatchLogs()
    with pytest.raises(sk.ModelError, match=r"not built.*\n.*give it an Input"):
        fit(made, sk.SaveKit(policy(), directory=tmp_path), watched)
    assert watched.seen == []
    assert names(tmp_path) == []


def test_a_model_whose_config_cannot_be_written_is_refused_before_the_first_step(tmp_path):
    class Scaled(keras.layers.Layer):
        def __init__(self, table):
            super().__init__()
            self.table = table

        def call(self, inputs):
            return inputs

    made = keras.Sequential([keras.Input((3,)), Scaled(object()), keras.layers.Dense(1)])
    made.compile("sgd", "mse")
    with pytest.raises(sk.ModelError, match=r"cannot be serialized.*"):
        fit(made, sk.SaveKit(policy(), directory=tmp_path))


def test_a_metric_that_fit_never_reports_is_reported_once_and_training_continues(tmp_path):
    plans = (plan("improved accuracy max"), plan("train_end", name="end"))
    kit = sk.SaveKit(policy(*plans), directory=tmp_path)
    watched = BatchLogs()
    with pytest.warns(sk.SavekitWarning, match=r"uses accuracy, .*fit reported loss, mae") as told:
        fit(model(), kit, watched, epochs=3)
    assert len(told) == 1
    assert len(watched.seen) == 3 * STEPS
    assert names(tmp_path) == ["000000018-end"]


def test_a_validation_metric_without_validation_says_what_is_missing(tmp_path):
    kit = sk.SaveKit(policy(plan("improved val_loss min")), directory=tmp_path)
    with pytest.warns(sk.SavekitWarning, match="metrics with val_ need validation_data"):
        fit(model(), kit, epochs=3)


def test_a_validation_that_comes_later_is_waited_for(tmp_path):
    kit = sk.SaveKit(policy(plan("improved val_loss min")), directory=tmp_path)
    fit(model(), kit, epochs=2, validation_data=held_out(), validation_freq=2)
    assert names(tmp_path) == ["000000012-p"]


def test_a_kit_without_a_directory_is_refused():
    with pytest.raises(sk.DirectoryError, match="give directory="):
        sk.SaveKit(policy())


def test_a_file_in_the_place_of_the_directory_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(sk.DirectoryError, match="file is not a directory"):
        sk.SaveKit(policy(), directory=tmp_path / "file" / "run")


def test_a_directory_that_cannot_be_made_is_refused_before_the_first_step(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")

    kit, watched = sk.SaveKit(policy(), directory=tmp_path / "run"), BatchLogs()
    monkeypatch.setattr(syscalls, "mkdir", refuse)
    with pytest.raises(sk.DirectoryError, match="Permission denied"):
        fit(model(), kit, watched)
    assert watched.seen == []


def test_a_kit_that_is_created_again_before_training_takes_the_place_of_the_first(tmp_path):
    sk.SaveKit(policy(), directory=tmp_path)
    kit = sk.SaveKit(policy(plan("train_end")), directory=tmp_path)
    fit(model(), kit, epochs=1)
    assert names(tmp_path) == ["000000006-p"]


def test_the_kit_used_outside_of_fit_says_so(tmp_path):
    kit = sk.SaveKit(policy(), directory=tmp_path)
    with pytest.raises(sk.DirectoryError, match="outside of fit"):
        kit.on_epoch_end(0)


def test_evaluate_and_predict_with_the_kit_do_nothing(tmp_path):
    made, kit = model(), sk.SaveKit(policy(), directory=tmp_path)
    made.evaluate(*arrays(), verbose=0, callbacks=[kit])
    made.predict(arrays()[0], verbose=0, callbacks=[kit])
    assert list(tmp_path.iterdir()) == []


# Failures beside the training.


class BreakDisk(keras.callbacks.Callback):
    """After a step, puts a file where checkpoints are made; takes it away when a save failed."""

    def __init__(self, directory: Path, breaks: int, mends: int = 0):
        super().__init__()
        self.directory, self.breaks, self.mends, self.step = directory, breaks, mends, 0

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        place, aside = self.directory / "checkpoints", self.directory / "aside"
        if self.step == self.breaks:
            place.rename(aside)
            place.write_text("")
        elif self.step == self.mends:
            wait_until(lambda: events(self.directory, "failed"))
            place.unlink()
            aside.rename(place)


def test_a_failed_save_is_reported_and_the_training_continues(tmp_path):
    kit = sk.SaveKit(policy(plan("every 4 steps", when_busy="wait")), directory=tmp_path)
    with pytest.warns(sk.SavekitWarning, match=r"(?s)4-p could not be saved.*is unaffected"):
        fit(model(), kit, BreakDisk(tmp_path, breaks=3, mends=7))
    assert names(tmp_path) == ["000000008-p", "000000012-p"]
    assert [each["name"] for each in events(tmp_path, "failed")] == ["000000004-p"]


@pytest.mark.filterwarnings("default::keras_savekit.SavekitWarning")  # of what was still waiting
def test_a_failed_save_stops_the_training_where_the_policy_says_so(tmp_path):
    asked = policy(plan("every 4 steps", when_busy="wait"), on_failure="raise")
    watched = BatchLogs()
    kit = sk.SaveKit(asked, directory=tmp_path)
    with pytest.raises(sk.SaveError, match=r"could not be saved.*[Nn]ot a directory"):
        fit(model(), kit, BreakDisk(tmp_path, breaks=3), watched, epochs=200)
    assert 4 <= len(watched.seen) <= 12  # a slow disk makes it wait, and is not outrun


def test_a_failure_at_the_last_save_is_reported_before_fit_returns(tmp_path):
    asked = policy(plan("train_end"), on_failure="raise")
    with pytest.raises(sk.SaveError, match="could not be saved"):
        fit(model(), sk.SaveKit(asked, directory=tmp_path), BreakDisk(tmp_path, breaks=11))


class WaitForTheBackground(keras.callbacks.Callback):
    """After each step, until everything that was saved is looked at."""

    def __init__(self, kit):
        super().__init__()
        self.kit = kit

    def on_train_batch_end(self, batch, logs=None):
        self.kit.session._pipeline.join()


def test_what_fails_its_verification_is_saved_again_at_the_next_step(tmp_path, monkeypatch):
    damage_steps(monkeypatch, 4)
    asked = policy(plan("every 4 steps", when_busy="wait"), on_failure="resave")
    kit = sk.SaveKit(asked, directory=tmp_path)
    with pytest.warns(sk.SavekitWarning, match="000000004-p failed its verification"):
        fit(model(), kit, WaitForTheBackground(kit))
    assert names(tmp_path) == ["000000005-p", "000000008-p", "000000012-p"]
    (again,) = (each for each in events(tmp_path, "saved") if each["name"] == "000000005-p")
    assert again["reasons"] == ["000000004-p failed its verification"]
    assert [name for name, _ in RunDirectory(tmp_path).quarantined()] == ["000000004-p"]


def test_what_fails_after_the_last_step_is_saved_again_before_fit_returns(tmp_path, monkeypatch):
    damage_steps(monkeypatch, 12)
    kit = sk.SaveKit(policy(plan("train_end"), on_failure="resave"), directory=tmp_path)
    with pytest.warns(sk.SavekitWarning, match="000000012-p failed its verification"):
        fit(model(), kit)
    assert [each.status for each in RunDirectory(tmp_path).checkpoints()] == ["verified"]
    assert [name for name, _ in RunDirectory(tmp_path).quarantined()] == ["000000012-p"]


# Exceptions.


def test_an_exception_leaves_fit_unchanged_after_the_state_was_saved(tmp_path):
    error = ValueError("the training broke")
    kit = sk.SaveKit(policy(plan("exception")), directory=tmp_path)
    with pytest.raises(ValueError, match="the training broke") as raised:
        fit(model(), kit, Interrupt(3, error))
    assert raised.value is error
    assert names(tmp_path) == ["000000003-p"]  # the kit had not heard of that step yet
    assert events(tmp_path, "interrupted")[0]["why"] == "ValueError"
    assert RunDirectory(tmp_path).checkpoints()[0].status == "verified"


def test_ctrl_c_saves_too_and_frees_the_directory(tmp_path):
    kit = sk.SaveKit(policy(plan("exception")), directory=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(model(), kit, Interrupt(3))
    assert names(tmp_path) == ["000000003-p"]
    with RunWriter.acquire(RunDirectory(tmp_path)):
        pass


def test_ctrl_c_while_keras_gets_an_epochs_data_saves_too(tmp_path, monkeypatch):
    """Where a training of short epochs spends much of its time."""
    made, tfs = data(), tf.data.Dataset
    begin = tfs.__iter__
    begun = []

    def interrupt(self):
        begun.append(self)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return begin(self)

    monkeypatch.setattr(tfs, "__iter__", interrupt)
    kit = sk.SaveKit(policy(plan("exception")), directory=tmp_path, data=made)
    with pytest.raises(KeyboardInterrupt):
        fit(model(), kit, on=made, epochs=9)
    (saved,) = RunDirectory(tmp_path).checkpoints()
    assert saved.status == "verified"
    assert events(tmp_path, "interrupted")[0]["why"] == "KeyboardInterrupt"


def test_without_the_trigger_an_exception_saves_nothing_but_finishes_what_was_begun(tmp_path):
    kit = sk.SaveKit(policy(plan("every 2 steps")), directory=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(model(), kit, Interrupt(3))
    assert names(tmp_path) == ["000000002-p"]


def test_a_failure_beside_an_exception_does_not_hide_it(tmp_path):
    asked = policy(plan("exception"), on_failure="raise")
    with (
        pytest.warns(sk.SavekitWarning, match="could not be saved"),
        pytest.raises(ValueError, match="the training broke"),
    ):
        fit(
            model(),
            sk.SaveKit(asked, directory=tmp_path),
            BreakDisk(tmp_path, breaks=2),
            Interrupt(5, ValueError("the training broke")),
        )


def test_a_training_that_an_exception_stopped_is_resumed_exactly(tmp_path):
    def train(*callbacks):
        on = data()
        kit = sk.SaveKit(policy(plan("exception")), directory=tmp_path, data=on)
        made = model()
        fit(made, kit, *callbacks, on=on)
        return made, kit

    with pytest.raises(KeyboardInterrupt):
        train(Interrupt(STEPS + 2))
    made, kit = train()
    assert (kit.resumed.level, kit.resumed.moment.step) == ("exact", STEPS + 2)
    straight = model()
    straight.fit(data(), epochs=2, verbose=0, shuffle=False)
    assert digest(made) == digest(straight)


@pytest.mark.parametrize("done", [False, True], ids=["before the step ran", "after it ran"])
def test_ctrl_c_within_a_step_is_resumed_exactly(tmp_path, done):
    class PressCtrlC(keras.callbacks.Callback):
        """Ctrl-C while the main thread is in the fourth call of the train function."""

        def on_train_begin(self, logs=None):
            inner, self.calls = self.model.train_function, 0

            def pressed(iterator):
                self.calls += 1
                if self.calls < 4:
                    return inner(iterator)
                if done:
                    inner(iterator)
                raise KeyboardInterrupt

            self.model.train_function = pressed

        def get_state(self):
            return {}

        def set_state(self, state):
            pass

    def train(*callbacks):
        on = data()
        kit = sk.SaveKit(policy(plan("exception")), directory=tmp_path, data=on)
        made = model()
        fit(made, kit, *callbacks, on=on)
        return made, kit

    with pytest.raises(KeyboardInterrupt):
        train(PressCtrlC())
    made, kit = train()
    assert (kit.resumed.level, kit.resumed.moment.step) == ("exact", 4 if done else 3)
    straight = model()
    straight.fit(data(), epochs=2, verbose=0, shuffle=False)
    assert digest(made) == digest(straight)
