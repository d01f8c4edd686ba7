"""Every argument of `fit` and `compile` that changes how batches are counted, resumed exactly."""

import keras
import numpy as np
import pytest
from training_builders import (
    STEPS,
    Interrupt,
    arrays,
    data,
    digest,
    fit,
    held_out,
    model,
    plan,
    policy,
)

import keras_savekit as sk

X, Y = arrays()
LABELS = (Y[:, 0] > 0).astype(np.int32)
EVERY_STEP = policy(plan("every 1 steps", when_busy="wait"))


def trained(directory, stop, on=data, compiled=None, epochs=3, **arguments):
    source = on()
    kit = sk.SaveKit(EVERY_STEP, directory=directory, data=source)
    made = model(**(compiled or {}))
    repeated = arguments.pop("repeat", False)
    given = source.repeat() if repeated else source
    history = fit(made, kit, Interrupt(stop), on=given, epochs=epochs, **arguments)
    return digest(made), history.history, kit.resumed


CASES = {
    "class_weight": {
        "on": lambda: sk.resumable(X, LABELS, batch_size=4, seed=5),
        "compiled": {"loss": "binary_crossentropy"},
        "class_weight": {0: 1.0, 1: 3.0},
    },
    "sample_weight": {
        "on": lambda: sk.resumable(X, Y, sample_weight=np.abs(X[:, 0]), batch_size=4, seed=5),
        "compiled": {"weighted_metrics": ["mae"]},
    },
    "validation_data": {"validation_data": held_out(4)},
    "validation_freq": {"validation_data": held_out(4), "validation_freq": 2},
    "validation_steps": {"validation_data": held_out(4), "validation_steps": 2},
    "validation_batch_size": {"validation_data": (X, Y), "validation_batch_size": 11},
    "steps_per_epoch": {"steps_per_epoch": 4, "repeat": True},
    "steps_per_epoch, longer": {"steps_per_epoch": 8, "repeat": True},
    "initial_epoch": {"initial_epoch": 1},
    "steps_per_execution": {"compiled": {"steps_per_execution": 3}},
    "jit_compile": {"compiled": {"jit_compile": True}},
    "run_eagerly": {"compiled": {"run_eagerly": True}},
}


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("name", CASES)
def test_a_training_with_this_argument_is_resumed_exactly(tmp_path, name):
    whole = trained(tmp_path / "whole", 10**6, **CASES[name])
    per_call = CASES[name].get("compiled", {}).get("steps_per_execution", 1)
    stop = -(-(STEPS + 4) // per_call)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "stopped", stop, **CASES[name])
    found = trained(tmp_path / "stopped", 10**6, **CASES[name])
    assert (found[2].level, found[2].reasons) == ("exact", ())
    assert found[2].moment.batch > 0
    if name == "validation_steps" and keras.__version__ == "3.3.3":
        # The oldest Keras begins each validation in its data where the one before ended.
        found, whole = (
            {k: v for k, v in each[1].items() if k[:4] != "val_"} for each in (found, whole)
        )
        assert found == whole
        return
    assert found[:2] == whole[:2]


@pytest.mark.parametrize("stop", [3, STEPS + 3])
def test_validation_split_and_arrays_without_a_position_start_the_epoch_again(tmp_path, stop):
    def fit_on_arrays(until):
        kit, made = sk.SaveKit(EVERY_STEP, directory=tmp_path), model()
        made.fit(
            X, Y, batch_size=4, validation_split=0.2, epochs=3, verbose=0,
            callbacks=[Interrupt(until), kit],
        )  # fmt: skip
        return kit

    with pytest.raises(KeyboardInterrupt):
        fit_on_arrays(stop)
    kit = fit_on_arrays(10**6)
    assert kit.resumed.level == "position"
    assert kit.resumed.moment.batch == 0


def test_a_training_cut_short_in_mid_epoch_goes_on_there(tmp_path):
    import keras

    class Enough(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 3:
                self.model.stop_training = True

        def get_state(self):
            return {}

        def set_state(self, state):
            pass

    on = data()
    kit = sk.SaveKit(policy(plan(["every epoch", "train_end"])), directory=tmp_path, data=on)
    fit(model(), kit, Enough(), on=on, epochs=1)
    on = data()
    kit = sk.SaveKit(policy(plan("train_end")), directory=tmp_path, data=on)
    made = model(seed=99)
    fit(made, kit, on=on, epochs=2)
    assert (kit.resumed.moment.epoch, kit.resumed.moment.batch) == (0, 4)
    straight = model()
    straight.fit(data(), epochs=2, verbose=0, shuffle=False)
    assert digest(made) == digest(straight)
