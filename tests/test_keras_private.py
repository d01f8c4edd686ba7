"""What is relied upon of Keras's private ways. A version that changes one fails here, loudly."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from training_builders import BATCH, STEPS, Interrupt, arrays, data, held_out, model

from keras_savekit.backend import variables as backend_variables
from keras_savekit.fit import steering
from keras_savekit.fit.steering import Fit, end_epoch, next_epoch


class Steered(keras.callbacks.Callback):
    """Makes a `Fit` where the kit makes it, and notes what happens."""

    def __init__(self, start=None, end_after=None):
        super().__init__()
        self.start, self.end_after = start, end_after
        self.epochs, self.batches, self.left = [], 0, []

    def on_train_begin(self, logs=None):
        self.fit = Fit(self.model, self)
        if self.start is not None:
            self.fit.start_at(self.start)
        self.steps = 0
        self.fit.watch(lambda error, in_step: self.left.append((error, in_step)), self.step)

    def step(self):
        self.steps += 1

    def on_epoch_begin(self, epoch, logs=None):
        next_epoch(self.model)
        self.epochs.append(epoch)
        self.batches = 0

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1
        if self.batches == self.end_after:
            end_epoch(self.model)

    def on_epoch_end(self, epoch, logs=None):
        next_epoch(self.model)

    def on_train_end(self, logs=None):
        self.fit.release()


def test_fit_begins_with_the_epoch_set_when_training_begins():
    steered = Steered(start=2)
    model().fit(data(), epochs=4, verbose=0, shuffle=False, callbacks=[steered])
    assert steered.epochs == [2, 3]


def test_a_later_fit_begins_where_it_says():
    made, steered = model(), Steered(start=2)
    made.fit(data(), epochs=4, verbose=0, shuffle=False, callbacks=[steered])
    steered.start = None
    made.fit(data(), epochs=1, verbose=0, shuffle=False, callbacks=[steered])
    assert steered.epochs == [2, 3, 0]


def test_an_epoch_can_be_ended_without_ending_the_training():
    made, steered = model(), Steered(end_after=3)
    made.fit(data(), epochs=3, verbose=0, shuffle=False, callbacks=[steered])
    assert steered.epochs == [0, 1, 2]
    assert int(made.optimizer.iterations.numpy()) == 9
    assert made.stop_training is False


def test_who_stops_the_training_is_not_overruled():
    made = model()
    stopped = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(made, "stop_training", True)
    )
    steered = Steered(end_after=3)
    made.fit(data(), epochs=3, verbose=0, shuffle=False, callbacks=[stopped, steered])
    assert steered.epochs == [0]


def test_an_epoch_of_unknown_length_that_is_ended_counts_no_step_that_never_was():
    made, steered = model(), Steered(end_after=STEPS)
    endless = data().repeat().take(STEPS).filter(lambda x, y: True)
    made.fit(endless, epochs=1, verbose=0, shuffle=False, callbacks=[steered])
    assert int(made.optimizer.iterations.numpy()) == STEPS


def test_the_list_of_callbacks_is_found_among_the_callers():
    steered, other = Steered(), keras.callbacks.Callback()
    model().fit(data(), epochs=1, verbose=0, shuffle=False, callbacks=[other, steered])
    assert steered.fit.others()[0] is other
    assert steered.fit.callbacks_after() == ""


def failing(hook):
    def fail(*args, **kwargs):
        raise ValueError("on purpose")

    return keras.callbacks.LambdaCallback(**{hook: fail})


@pytest.mark.parametrize(
    "hook", ["on_epoch_begin", "on_epoch_end", "on_train_batch_begin", "on_train_batch_end"]
)
def test_an_exception_in_a_callback_is_seen_once_and_goes_on(hook):
    steered = Steered()
    with pytest.raises(ValueError, match="on purpose"):
        model().fit(data(), epochs=1, verbose=0, shuffle=False, callbacks=[failing(hook), steered])
    assert [(str(error), in_step) for error, in_step in steered.left] == [("on purpose", False)]


def test_every_step_is_told_when_it_is_done():
    steered = Steered()
    model().fit(data(), epochs=2, verbose=0, shuffle=False, callbacks=[steered])
    assert steered.steps == 2 * STEPS


def test_a_call_of_the_train_function_can_be_made_to_train_nothing():
    class Idle(Steered):
        def on_epoch_begin(self, epoch, logs=None):
            super().on_epoch_begin(epoch)
            if epoch == 1:
                self.fit.train_nothing()

    made, steered = model(), Idle()
    made.fit(data(), epochs=2, verbose=0, shuffle=False, callbacks=[steered])
    assert steered.steps == 2 * STEPS - 1
    assert int(made.optimizer.iterations.numpy()) == 2 * STEPS - 1


def test_an_exception_in_a_step_is_told_apart():
    def broken(y_true, y_pred):
        raise ZeroDivisionError("in the step")

    steered, made = Steered(), model(loss=broken, run_eagerly=True)
    with pytest.raises(ZeroDivisionError):
        made.fit(*arrays(), batch_size=BATCH, verbose=0, callbacks=[steered])
    assert [in_step for _, in_step in steered.left] == [True]


def test_an_exception_in_the_data_is_seen_as_it_comes_in_a_step():
    def batches():
        for _ in range(4):  # Keras draws the first ones before training begins
            yield arrays()
        raise RuntimeError("the data broke")

    steered = Steered()
    with pytest.raises(tf.errors.UnknownError, match="the data broke"):
        model().fit(batches(), steps_per_epoch=9, verbose=0, shuffle=False, callbacks=[steered])
    assert len(steered.left) == 1


class BreaksBetween(keras.utils.PyDataset):
    """Data that raises between two steps: when an epoch's batches have been taken."""

    def __len__(self):
        return STEPS

    def __getitem__(self, index):
        return arrays()

    def on_epoch_end(self):
        if self.begun:
            raise KeyboardInterrupt
        self.begun = True  # Keras calls it once before training begins

    begun = False


def test_an_exception_in_the_data_between_two_steps_is_seen():
    steered = Steered()
    with pytest.raises(KeyboardInterrupt):
        model().fit(BreaksBetween(), epochs=2, verbose=0, shuffle=False, callbacks=[steered])
    assert [(type(error), in_step) for error, in_step in steered.left] == [
        (KeyboardInterrupt, False)
    ]


def test_an_exception_in_a_validation_is_seen():
    stop = failing("on_test_batch_end")
    steered = Steered()
    with pytest.raises(ValueError, match="on purpose"):
        model().fit(
            data(), validation_data=held_out(), epochs=1, verbose=0, shuffle=False,
            callbacks=[stop, steered],
        )  # fmt: skip
    assert len(steered.left) == 1


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_the_end_of_the_data_is_no_exception():
    steered = Steered()
    of_unknown_length = data().filter(lambda x, y: True)
    model().fit(of_unknown_length, epochs=1, verbose=0, shuffle=False, callbacks=[steered])
    assert steered.batches == STEPS
    assert steered.left == []


def test_release_leaves_nothing_behind_on_the_model():
    made, steered = model(), Steered(start=0)
    made.fit(data(), epochs=1, verbose=0, shuffle=False)
    before = dict(vars(made))
    made.fit(data(), epochs=1, verbose=0, shuffle=False, callbacks=[steered])
    assert set(vars(made)) == set(before)
    for name in ("train_function", "_initial_epoch", "stop_training"):
        assert vars(made)[name] == before[name]


def test_a_keyboard_interrupt_is_seen_too():
    steered = Steered()
    with pytest.raises(KeyboardInterrupt):
        model().fit(data(), epochs=1, verbose=0, shuffle=False, callbacks=[Interrupt(2), steered])
    assert [type(error) for error, _ in steered.left] == [KeyboardInterrupt]


def test_the_sentinel_is_true_and_tells_what_it_is():
    assert bool(steering._EPOCH_IS_OVER)
    assert repr(steering._EPOCH_IS_OVER) == "this epoch is over"


def test_variables_copy_on_write_so_that_a_reference_keeps_what_it_saw():
    variable = keras.Variable(np.arange(1000, dtype=np.float32))
    seen = variable.value.read_value()
    variable.assign_add(np.ones(1000, np.float32))
    np.testing.assert_array_equal(seen.numpy(), np.arange(1000))


def test_all_variables_are_read_at_once_and_stay_what_they_were():
    variables = [*model().weights, keras.Variable(3, dtype="int64"), keras.Variable([True, False])]
    before = [variable.numpy() for variable in variables]
    read = backend_variables.reader(variables)
    seen = read()
    for variable in variables:
        variable.assign(
            keras.ops.logical_not(variable) if variable.dtype == "bool" else variable + 1
        )
    for tensor, expected in zip(seen, before, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), expected)
    for tensor, variable in zip(read(), variables, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), variable.numpy())


def test_a_variable_that_is_updated_sparsely_is_read_as_it_was():
    table = keras.Variable(np.zeros((50, 4), "float32"))
    read = backend_variables.reader([table])
    for number in range(3):
        (seen,) = read()
        before = seen.numpy().copy()
        table.value.scatter_add(tf.IndexedSlices(tf.ones((2, 4)), [number, 7]))
        np.testing.assert_array_equal(seen.numpy(), before)
        np.testing.assert_array_equal(read()[0].numpy(), table.numpy())


def test_the_operation_that_reads_variables_is_the_one_asked_for(monkeypatch):
    monkeypatch.setattr(backend_variables, "_READ", "_NoSuchOp")
    with pytest.raises(tf.errors.NotFoundError, match="_NoSuchOp"):
        backend_variables.reader(model().weights)()
