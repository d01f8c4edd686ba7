"""Saves that are requested from outside, limited or left out, in a real `fit`."""

import logging
import os
import signal

import keras
import numpy as np
import pytest
from training_builders import (
    STEPS,
    data,
    digest,
    events,
    fit,
    held_out,
    model,
    names,
    plan,
    policy,
)

import keras_savekit as sk
from keras_savekit.errors import SavekitWarning
from keras_savekit.store.run import RunDirectory


class At(keras.callbacks.Callback):
    """Does something before a batch of this `fit`, counted from 1, ends."""

    def __init__(self, batch, do):
        super().__init__()
        self.left, self.do = batch, do

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            self.do()

    def get_state(self):
        return {}

    def set_state(self, state):
        pass


def kit(directory, *plans, **changes):
    return sk.SaveKit(policy(*plans, **changes), directory=directory)


def send(name):
    return lambda: os.kill(os.getpid(), getattr(signal, name))


def reasons(directory):
    return [each.manifest.reasons for each in RunDirectory(directory).checkpoints()]


def test_a_signal_saves_stops_training_and_a_second_one_is_harmless(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    trained = model()
    twice = At(4, lambda: (send("SIGTERM")(), send("SIGTERM")()))
    fit(trained, kit(tmp_path, plan("signal SIGTERM")), twice, epochs=3)
    assert names(tmp_path) == ["000000004-p"]
    assert reasons(tmp_path) == [("SIGTERM came",)]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_can_end_the_process_when_everything_is_saved(tmp_path):
    asked = plan({"signal": {"names": ["SIGTERM"], "then": "exit"}})
    kits = kit(tmp_path / "a", asked), kit(tmp_path / "b", plan("exception", "b"))
    with pytest.raises(SystemExit) as ended:
        fit(model(), kits[1], At(4, send("SIGTERM")), kits[0], epochs=3)
    assert ended.value.code == 143
    assert names(tmp_path / "a") == ["000000004-p"]
    assert names(tmp_path / "b") == ["000000004-b"]
    assert [each.status for each in RunDirectory(tmp_path / "a").checkpoints()] == ["verified"]


def test_a_training_that_a_signal_stopped_resumes_as_if_it_had_not(tmp_path):
    def train(directory, trained, *before):
        on = data()
        given = plan(["signal SIGTERM", "train_end"])
        made = sk.SaveKit(policy(given), directory=directory, data=on)
        fit(trained, made, *before, on=on)
        return made

    whole, resumed = model(), model()
    train(tmp_path / "whole", whole)
    train(tmp_path / "cut", resumed, At(4, send("SIGTERM")))
    resumed = model(seed=99)
    again = train(tmp_path / "cut", resumed)
    assert again.resumed.moment.step == 4
    assert digest(resumed) == digest(whole)


class InValidation(At):
    """Does something before a batch of a validation ends, and counts those batches."""

    seen = 0

    def on_train_batch_end(self, batch, logs=None):
        pass

    def on_test_batch_end(self, batch, logs=None):
        self.seen += 1
        super().on_train_batch_end(batch)


def preempted(directory, do, *kits, epochs=3):
    """A training with everything that decides by a validation, of six batches."""
    made, on = model(), data()
    kits = kits or (plan(["signal SIGTERM", "train_end"], verify="bytes"),)
    savers = [
        sk.SaveKit(policy(each), directory=directory / str(number), data=on)
        for number, each in enumerate(kits)
    ]
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=9)
    log = keras.callbacks.CSVLogger(directory / "log.csv")
    *others, last = savers
    history = fit(
        made, last, do, stopping, log, *others, on=on, epochs=epochs, validation_data=held_out(4)
    )
    rows = (directory / "log.csv").read_text()
    return (digest(made), history.history, stopping.best, stopping.wait, rows), savers


@pytest.mark.parametrize("when", ["a step", "a validation", "the first epoch's validation"])
def test_a_preempted_training_stops_at_once_and_resumes_exactly(tmp_path, when):
    for each in ("whole", "cut"):
        (tmp_path / each).mkdir()
    whole, _ = preempted(tmp_path / "whole", InValidation(0, None))
    term = send("SIGTERM")
    at = {
        "a step": At(STEPS + 2, term),
        "a validation": InValidation(STEPS + 2, term),
        "the first epoch's validation": InValidation(2, term),
    }[when]
    preempted(tmp_path / "cut", at)
    if isinstance(at, InValidation):
        assert at.seen in (2, STEPS + 2)  # no further batch of the validation
    found, (kit,) = preempted(tmp_path / "cut", type(at)(0, None))
    assert (kit.resumed.level, kit.resumed.reasons) == ("exact", ())
    assert found == whole


def test_a_validation_after_an_interrupted_epoch_is_cut_short_too(tmp_path):
    class Both(InValidation):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                send("SIGTERM")()

    counting = Both(0, None)
    preempted(tmp_path, counting)
    assert counting.seen == 1


def test_a_kit_that_saves_at_the_end_leaves_an_interrupted_training_to_be_resumed(tmp_path):
    kits = plan("signal SIGTERM", "asked"), plan("train_end", "last")
    (tmp_path / "whole").mkdir()
    whole, _ = preempted(tmp_path / "whole", At(0, None), *kits)
    preempted(tmp_path, At(STEPS + 2, send("SIGTERM")), *kits)
    assert names(tmp_path / "1") == [f"{STEPS + 2:09d}-last"]
    found, savers = preempted(tmp_path, At(0, None), *kits)
    assert {each.resumed.name for each in savers} == {f"{STEPS + 2:09d}-last"}
    assert found == whole


def test_training_continues_after_a_signal_and_after_a_file(tmp_path):
    files = At(3, (tmp_path / "SAVE_NOW").touch)
    both = plan(["signal SIGUSR1 then continue", "file SAVE_NOW"], when_busy="wait")
    fit(model(), kit(tmp_path, both), files, At(8, send("SIGUSR1")))
    saved = [reason for each in reasons(tmp_path) for reason in each]
    assert "SIGUSR1 came" in saved
    assert "000000008-p" in names(tmp_path)
    last = events(tmp_path, "captured")[-1]["step"]
    assert last <= 2 * STEPS


def test_a_training_is_saved_before_its_first_step_too(tmp_path):
    made = model()
    weights = [each.copy() for each in made.get_weights()]
    fit(made, kit(tmp_path, plan(["train_begin", "train_end"])))
    assert names(tmp_path) == ["000000000-p", "000000012-p"]
    first = keras.models.load_model(tmp_path / "checkpoints/000000000-p/model.h5")
    for one, other in zip(first.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_deadline_saves_once(tmp_path, monkeypatch):
    monkeypatch.setenv("END", "2020-01-01T00:00:00Z")
    trigger = {"before_deadline": {"at": "env END", "margin": "1m"}}
    fit(model(), kit(tmp_path, plan([trigger])))
    assert reasons(tmp_path) == [("1m before the deadline",)]


def poison(made):
    return At(3, lambda: made.layers[0].kernel.assign(made.layers[0].kernel * np.nan))


def test_a_model_that_is_not_finite_is_not_saved_over_good_ones(tmp_path):
    made = model()
    kept = kit(tmp_path, plan("every 2 steps", keep="last 1", when_busy="wait"))
    with pytest.warns(SavekitWarning, match="p is not saved while the model is not finite"):
        fit(made, kept, poison(made))
    assert names(tmp_path) == ["000000002-p"]
    skipped = events(tmp_path, "skipped")
    assert len(skipped) == 5
    assert "not finite" in skipped[0]["why"] or "loss is nan" in skipped[0]["why"]


def test_a_model_that_is_not_finite_is_saved_where_the_policy_says_so(tmp_path):
    made = model()
    every = plan("every 2 steps", not_finite="save", when_busy="wait")
    fit(made, kit(tmp_path, every), poison(made), epochs=1)
    assert len(names(tmp_path)) == 3


def test_a_save_without_room_is_left_out_and_reported_and_no_file_remains(tmp_path):
    limited = kit(tmp_path, plan("every 4 steps"), limits={"disk": "10kB"})
    with pytest.warns(SavekitWarning, match=r"p is not saved: it needs \d+ bytes"):
        fit(model(), limited)
    assert names(tmp_path) == []
    assert "limits.disk: 10kB" in events(tmp_path, "skipped")[0]["why"]


def test_retention_makes_room_before_a_save_that_would_not_fit(tmp_path):
    fit(model(), kit(tmp_path / "one", plan("train_end")))
    (one,) = RunDirectory(tmp_path / "one").checkpoints()
    room = 2 * one.manifest.bytes + 250_000  # for two, and the prediction is on the safe side
    last = plan("every 2 steps", keep="last 2", when_busy="wait")
    limited = kit(tmp_path / "two", last, limits={"disk": room})
    fit(model(), limited)
    assert names(tmp_path / "two") == ["000000010-p", "000000012-p"]
    assert not events(tmp_path / "two", "skipped")


def test_what_is_pinned_outlives_retention(tmp_path):
    def pin():
        RunDirectory(tmp_path).pin("000000002-p", pinned=True)

    kept = plan("every 2 steps", keep="last 3", when_busy="wait")
    fit(model(), kit(tmp_path, kept), epochs=1)
    pin()
    on = data()
    fit(model(), sk.SaveKit(policy(kept), directory=tmp_path, data=on), on=on, epochs=3)
    assert names(tmp_path)[0] == "000000002-p"
    assert len(names(tmp_path)) == 4


def test_intervals_are_longer_when_saving_costs_too_much_and_it_is_reported_once(tmp_path, caplog):
    caplog.set_level(logging.INFO, "keras_savekit")
    eager = kit(
        tmp_path, plan(["every step", "train_end"], when_busy="wait"), limits={"overhead": "0.1%"}
    )
    fit(model(), eager, epochs=8)
    told = caplog.text
    stretched = events(tmp_path, "stretched")
    if not stretched:
        pytest.fail("48 saves in a few seconds cost less than 5 ms?")
    assert told.count("saving takes more than limits.overhead allows") == 1
    assert len(names(tmp_path)) < 8 * STEPS
