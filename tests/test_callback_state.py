"""Callbacks decide after a resume as they would have without it."""

import csv
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
from training_builders import (
    STEPS,
    Interrupt,
    Noise,
    data,
    digest,
    fit,
    held_out,
    model,
    plan,
    policy,
)

import keras_savekit as sk
from keras_savekit.fit.callback_state import collect, restore

EPOCHS = 6
EVERY_STEP = policy(plan("every 1 steps", when_busy="wait"))


class Watched(keras.callbacks.Callback):
    """The learning rate at every epoch's end, and how each epoch's logs looked."""

    def __init__(self):
        super().__init__()
        self.rates = []

    def on_epoch_end(self, epoch, logs=None):
        self.rates.append(float(self.model.optimizer.learning_rate.numpy()))

    def get_state(self):
        return {"rates": self.rates}

    def set_state(self, state):
        self.rates = list(state["rates"])


def everything(directory):
    """Callbacks of every kind, as a user would have them."""
    callbacks = keras.callbacks
    return [
        callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.9),
        callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=0.5, cooldown=1),
        callbacks.EarlyStopping("val_loss", patience=2, min_delta=0.8, restore_best_weights=True),
        callbacks.CSVLogger(directory / "log.csv"),
        callbacks.TerminateOnNaN(),
        Noise(),
        Watched(),
    ]


def outcome(made, history, callbacks):
    stopping, noise, watched = callbacks[2], callbacks[5], callbacks[6]
    return {
        "digest": digest(made),
        "history": history.history,
        "epochs": history.epoch,
        "best": (stopping.best, stopping.wait, stopping.best_epoch, stopping.stopped_epoch),
        "rates": watched.rates,
        "noise": noise.sums,
        "next": np.random.random(),
    }


def rows(directory):
    with (directory / "log.csv").open() as file:
        return list(csv.reader(file))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    made, callbacks = model(), everything(directory)
    history = made.fit(
        data(),
        validation_data=held_out(),
        epochs=EPOCHS,
        verbose=0,
        shuffle=False,
        callbacks=callbacks,
    )
    assert 1 < len(history.epoch) < EPOCHS  # it was stopped early, and not at once
    return outcome(made, history, callbacks), rows(directory)


def resumed_after(directory, step):
    on = data()
    kit = sk.SaveKit(EVERY_STEP, directory=directory / "run", data=on)
    first = everything(directory)
    with pytest.raises(KeyboardInterrupt):
        fit(
            model(), kit, *first, Interrupt(step),
            on=on, epochs=EPOCHS, validation_data=held_out(),
        )  # fmt: skip
    first[3].csv_file.close()  # Keras does not, when an exception ends the training
    on = data()
    kit = sk.SaveKit(EVERY_STEP, directory=directory / "run", data=on)
    made, callbacks = model(seed=99), everything(directory)
    never = Interrupt(10**6)
    history = fit(made, kit, *callbacks, never, on=on, epochs=EPOCHS, validation_data=held_out())
    return made, history, callbacks, kit


@pytest.mark.parametrize("step", [2, STEPS, STEPS + 1, 2 * STEPS + 5])
def test_history_callbacks_generators_and_logs_are_those_of_the_training_nothing_stopped(
    tmp_path, whole, step
):
    made, history, callbacks, kit = resumed_after(tmp_path, step)
    assert (kit.resumed.level, kit.resumed.reasons) == ("exact", ())
    found = outcome(made, history, callbacks)
    assert found == whole[0]
    assert rows(tmp_path) == whole[1]


def test_a_training_that_was_stopped_early_is_not_continued(tmp_path, whole, caplog):
    made, history, callbacks, _ = resumed_after(tmp_path, 2)
    on = data()
    kit = sk.SaveKit(EVERY_STEP, directory=tmp_path / "run", data=on)
    caplog.set_level(logging.INFO, "keras_savekit")
    again, callbacks = model(seed=98), [*everything(tmp_path), Interrupt(10**6)]
    history = fit(again, kit, *callbacks, on=on, epochs=EPOCHS, validation_data=held_out())
    assert "a callback stopped the training after" in caplog.text
    assert history.history == whole[0]["history"]
    np.testing.assert_equal(again.get_weights(), made.get_weights())  # the best, once more


def test_early_stopping_continues_when_more_epochs_are_requested(tmp_path):
    resumed_after(tmp_path, 2)
    on = data()
    kit = sk.SaveKit(EVERY_STEP, directory=tmp_path / "run", data=on)
    callbacks = [*everything(tmp_path), Interrupt(10**6)]
    history = fit(model(), kit, *callbacks, on=on, epochs=EPOCHS + 1, validation_data=held_out())
    assert history.epoch[-1] == kit.resumed.moment.epoch


def test_averages_swapped_into_the_model_are_swapped_back(tmp_path):
    def trained(directory, stop):
        made = model(optimizer=keras.optimizers.Adam(use_ema=True, ema_momentum=0.9), seed=7)
        on = data()
        kit = sk.SaveKit(EVERY_STEP, directory=directory, data=on)
        swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
        fit(made, kit, swap, Interrupt(stop), on=on, epochs=3, validation_data=held_out())
        return digest(made)

    whole = trained(tmp_path / "whole", 10**6)
    for stop in (STEPS + 1, STEPS + 3):
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / f"{stop}", stop)
        assert trained(tmp_path / f"{stop}", 10**6) == whole


class Odd(keras.callbacks.Callback):
    def get_state(self):
        return {"a": {1, 2}}

    def set_state(self, state):
        pass


def test_a_state_that_cannot_be_saved_is_reported_before_the_first_step(tmp_path):
    kit = sk.SaveKit(EVERY_STEP, directory=tmp_path)
    with pytest.raises(sk.ModelError, match=r"a set cannot be saved \[Odd#0/a\]"):
        fit(model(), kit, Odd())


def test_backup_and_restore_beside_the_kit_is_refused_with_the_reason(tmp_path):
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    kit = sk.SaveKit(EVERY_STEP, directory=tmp_path / "run")
    with pytest.raises(sk.ResumeError, match=r"BackupAndRestore.*both would"):
        fit(model(), kit, backup)


def test_a_state_is_restored_from_json_with_its_arrays():
    noise, other = Noise(), Noise()
    noise.sums = [1.5, 2.5]
    memory = collect([noise])
    assert memory.states == {"Noise#0": {"sums": {"__array__": "Noise#0/sums"}}}
    restore([other], memory)
    assert other.sums == noise.sums


def test_two_of_one_class_keep_their_own():
    pair, again = (Noise(), Noise()), (Noise(), Noise())
    pair[0].sums, pair[1].sums = [1.0], [2.0, 3.0]
    restore(again, collect(pair))
    assert [each.sums for each in again] == [[1.0], [2.0, 3.0]]


def test_a_subclass_is_known_as_far_as_its_base_is(tmp_path):
    class Stopping(keras.callbacks.EarlyStopping):
        pass

    from keras_savekit.fit.callback_state import not_restored

    memory = collect([Stopping()])
    assert not_restored([Stopping()], memory) == (
        "of Stopping only the state of EarlyStopping is restored",
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda _: keras.callbacks.EarlyStopping(),
        lambda _: keras.callbacks.ReduceLROnPlateau(),
        lambda place: keras.callbacks.ModelCheckpoint(place / "x.keras"),
        lambda _: keras.callbacks.SwapEMAWeights(),
        lambda place: keras.callbacks.TensorBoard(place / "logs"),
    ],
)
def test_keras_still_has_the_attributes_that_are_saved(make, tmp_path):
    from keras_savekit.fit.callback_state import SAVED_ATTRIBUTES

    callback = make(tmp_path)
    callback.set_model(model())
    if not isinstance(callback, keras.callbacks.TensorBoard):
        callback.on_train_begin()
    if isinstance(callback, keras.callbacks.ModelCheckpoint):
        callback.on_epoch_begin(0)
    missing = {n for n in SAVED_ATTRIBUTES[type(callback).__name__] if not hasattr(callback, n)}
    # The oldest Keras has the best of EarlyStopping from the first epoch's end on only.
    assert missing <= ({"best", "_global_test_batch"} if keras.__version__ == "3.3.3" else set())


def scalars(directory):
    """What TensorBoard shows: each tag's values by step, of all files there are."""
    found = {}
    for file in sorted(directory.rglob("events.out.tfevents*")):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                if value.HasField("tensor") and "keras" not in value.tag:
                    number = float(tf.make_ndarray(value.tensor))
                    found[str(file.parent.name), value.tag, event.step] = number
    return found


def test_tensorboard_shows_one_training(tmp_path):
    def train(place, *before):
        on = data()
        kit = sk.SaveKit(EVERY_STEP, directory=tmp_path / place / "run", data=on)
        board = keras.callbacks.TensorBoard(
            tmp_path / place / "logs", update_freq=1, write_graph=False
        )
        try:
            fit(model(), kit, board, *before, on=on, epochs=3, validation_data=held_out())
        finally:
            for writer in board._writers.values():
                writer.flush()  # as the end of the process would
        return kit

    train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("cut", Interrupt(STEPS + 3))
    kit = train("cut", Interrupt(0))
    assert (kit.resumed.level, kit.resumed.reasons) == ("exact", ())
    shown = scalars(tmp_path / "whole" / "logs")
    assert ("train", "epoch_loss", 2) in shown
    assert scalars(tmp_path / "cut" / "logs") == shown


@pytest.mark.parametrize("where", ["on_test_begin", "on_test_batch_end", "on_epoch_end"])
def test_ctrl_c_in_a_validation_or_at_an_epochs_end_is_resumed_exactly(tmp_path, whole, where):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    class Stop(keras.callbacks.Callback):
        def get_state(self):
            return {}

        def set_state(self, state):
            pass

    def train(*first):
        on = data()
        kit = sk.SaveKit(policy(plan("exception")), directory=tmp_path / "run", data=on)
        made, callbacks = model(), everything(tmp_path)
        try:
            history = fit(
                made, kit, *first, *callbacks, on=on, epochs=EPOCHS, validation_data=held_out()
            )
        finally:
            callbacks[3].csv_file.close()
        return outcome(made, history, callbacks), kit

    stopping = Stop()
    setattr(stopping, where, stop)
    with pytest.raises(KeyboardInterrupt):
        train(stopping)
    found, kit = train(Stop())
    assert kit.resumed.moment.batch == STEPS
    assert (kit.resumed.level, kit.resumed.reasons) == ("exact", ())
    assert found == whole[0]
    assert rows(tmp_path) == whole[1]


OLD_ROWS = "epoch,loss\n0,0.5\n1,0.4\n"


@pytest.mark.parametrize(("append", "kept"), [(True, 3), (False, 0)])
def test_rows_of_an_earlier_experiment_stay_in_a_csv_log_that_appends(tmp_path, append, kept):
    file = tmp_path / "log.csv"
    file.write_text(OLD_ROWS)
    log = keras.callbacks.CSVLogger(file, append=append)
    kit = sk.SaveKit(EVERY_STEP, directory=tmp_path / "run")
    fit(model(), kit, log, epochs=2)
    lines = file.read_text().splitlines()
    assert lines[:kept] == OLD_ROWS.splitlines()[:kept]
    assert len(lines) == kept + 2 + (not append)  # two epochs, and the header of a new file
    assert log.append is append


def test_a_csv_log_that_appends_has_one_row_an_epoch_after_an_interruption(tmp_path):
    file = tmp_path / "log.csv"
    file.write_text(OLD_ROWS)

    def train(*others):
        on = data()
        log = keras.callbacks.CSVLogger(file, append=True)
        kit = sk.SaveKit(EVERY_STEP, directory=tmp_path / "run", data=on)
        try:
            fit(model(), kit, log, *others, epochs=3, on=on)
        finally:
            log.csv_file.close()  # an exception skips `on_train_end`

    with pytest.raises(KeyboardInterrupt):
        train(Interrupt(STEPS + 2))
    train()
    lines = file.read_text().splitlines()
    assert lines[:3] == OLD_ROWS.splitlines()
    assert [line.split(",")[0] for line in lines[3:]] == ["0", "1", "2"]
