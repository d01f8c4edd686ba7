"""Whether a training can be resumed exactly is found out by doing it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from training_builders import STEPS, data, model

import keras_savekit as sk


def test_a_training_that_depends_on_nothing_hidden_is_exact():
    found = sk.check_determinism(model, data, steps=2 * STEPS + 2)
    assert found.exact
    assert str(found) == "exact: 14 steps, stopped after 7, no difference"


@keras.saving.register_keras_serializable("tests")
class HiddenCounter(keras.layers.Layer):
    """Counts its calls in a variable that Keras does not see."""

    def build(self, shape):
        self.hidden = tf.Variable(0.0, trainable=False)

    def call(self, inputs):
        self.hidden.assign_add(1.0)
        return inputs * (1.0 + 0.01 * self.hidden)


def with_hidden_state():
    made = keras.Sequential([keras.Input((3,)), HiddenCounter(), keras.layers.Dense(1)])
    made.compile("sgd", "mse")
    return made


def test_what_is_not_part_of_a_checkpoint_is_found_with_step_and_variable():
    found = sk.check_determinism(with_hidden_state, data, steps=6)
    assert not found.exact
    assert found.first.startswith("step 4: ")
    assert "kernel" in found.first
    assert "not part of a checkpoint" in str(found)


def test_a_training_that_no_seed_rules_is_told_apart():
    def unseeded():
        made = model()
        made.layers[0].kernel.assign(np.random.default_rng().normal(size=(3, 4)))
        return made

    found = sk.check_determinism(unseeded, data, steps=4)
    assert found.first.startswith("step 1: ")
    assert "before anything is stopped" in found.reason


def test_one_step_cannot_be_interrupted():
    with pytest.raises(sk.DataError, match="steps must be 2 or more, got 1"):
        sk.check_determinism(model, data, steps=1)
