"""What is saved when training ends holds the weights that it ends with."""

import keras
import numpy as np
import pytest
from training_builders import STEPS, data, digest, events, fit, model, names, plan, policy

import keras_savekit as sk

BOTH = policy(plan(["every epoch", "train_end"], when_busy="wait"))


def averaging(**compiled):
    optimizer = keras.optimizers.Adam(use_ema=True, ema_momentum=0.8)
    return model(**{"optimizer": optimizer, **compiled})


def train(directory, made, *callbacks, epochs=2, asked=BOTH):
    on = data()
    kit = sk.SaveKit(asked, directory=directory, data=on)
    fit(made, kit, *callbacks, on=on, epochs=epochs)
    return made, kit


def weights(directory, name):
    return sk.load_model(directory / "checkpoints" / name).get_weights()


def best_first():
    """Every epoch is worse than the first."""
    return keras.callbacks.EarlyStopping(
        "loss", patience=1, min_delta=1e6, restore_best_weights=True
    )


def test_the_best_weights_that_were_put_back_are_saved_beside_those_of_the_last_step(tmp_path):
    made, _ = train(tmp_path, model(), best_first(), epochs=9)
    first, last = f"{STEPS:09d}-p", f"{2 * STEPS:09d}-p"
    assert names(tmp_path) == [first, last, f"{last}~2"]
    np.testing.assert_equal(weights(tmp_path, f"{last}~2"), made.get_weights())
    np.testing.assert_equal(weights(tmp_path, first), made.get_weights())
    assert (tmp_path / "latest").resolve().name == f"{last}~2"
    again, kit = train(tmp_path, model(seed=99), best_first(), epochs=9)
    assert kit.resumed.name == f"{last}~2"
    np.testing.assert_equal(again.get_weights(), made.get_weights())


def test_a_step_whose_weights_nobody_changed_is_not_saved_again(tmp_path):
    train(tmp_path, model())
    assert names(tmp_path) == [f"{STEPS:09d}-p", f"{2 * STEPS:09d}-p"]
    (skipped,) = events(tmp_path, "skipped")
    assert skipped["why"] == "this step is already saved"


def test_averages_put_in_at_the_end_are_saved_and_more_epochs_go_on_without_them(tmp_path):
    swap = keras.callbacks.SwapEMAWeights
    made, _ = train(tmp_path, averaging(), swap())
    last = f"{2 * STEPS:09d}-p"
    assert names(tmp_path)[-2:] == [last, f"{last}~2"]
    np.testing.assert_equal(weights(tmp_path, f"{last}~2"), made.get_weights())
    longer, kit = train(tmp_path, averaging(seed=99), swap(), epochs=4)
    assert (kit.resumed.name, kit.resumed.level) == (last, "exact")
    straight, _ = train(tmp_path / "straight", averaging(), swap(), epochs=4)
    assert digest(longer) == digest(straight)


def test_it_is_told_when_only_the_weights_of_the_end_are_there_to_go_on_from(tmp_path):
    asked = policy(plan("train_end"))
    train(tmp_path, averaging(), keras.callbacks.SwapEMAWeights(), asked=asked)
    _, kit = train(
        tmp_path, averaging(seed=99), keras.callbacks.SwapEMAWeights(), epochs=3, asked=asked
    )
    assert kit.resumed.level == "position"
    assert kit.resumed.reasons == (
        "it was saved after SwapEMAWeights had ended the training with other weights",
    )


@pytest.mark.parametrize("epochs", [2, 3])
def test_a_plan_of_its_own_for_the_end_does_not_disturb_a_longer_training(tmp_path, epochs):
    asked = policy(plan("every epoch", "a", when_busy="wait"), plan("train_end", "z"))
    swap = keras.callbacks.SwapEMAWeights
    train(tmp_path, averaging(), swap(), asked=asked)
    _, kit = train(tmp_path, averaging(seed=99), swap(), epochs=epochs, asked=asked)
    assert kit.resumed.name[-1] == ("z" if epochs == 2 else "a")
