"""A snapshot is the model's state at one moment: by reference, and never changed afterwards."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from formats_models import arrays, batch, fingerprint, layers, small, snapshot_of, train

from keras_savekit.base.moment import Moment
from keras_savekit.base.tensors import as_array
from keras_savekit.errors import ModelError
from keras_savekit.model.capture import Capture
from keras_savekit.model.structure import LiveModel

pytestmark = pytest.mark.slow


def contents(snapshot):
    return [
        (str(array.dtype), array.shape, array.tobytes())
        for array in map(as_array, snapshot.tensors)
    ]


def live_variables(model):
    return arrays(
        [
            *model.weights,
            *(v for v in model.variables if not any(v is w for w in model.weights)),
            *model.optimizer.variables,
            *model.metrics_variables,
        ]
    )


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "adafactor"])
def test_later_training_does_not_change_a_snapshot(jit, optimizer):
    model = train(small(optimizer, jit_compile=jit), eagerly=False)
    then = live_variables(model)
    snapshot = snapshot_of(model)
    train(model, steps=3, seed=1, eagerly=False)
    assert live_variables(model) != then
    assert contents(snapshot) == then


def test_assigning_does_not_change_a_snapshot_either():
    model = train(small())
    then = live_variables(model)
    snapshot = snapshot_of(model)
    for variable in model.variables:
        variable.assign(variable + 1)
    model.weights[0].value.assign_add(tf.ones_like(model.weights[0].value))
    assert contents(snapshot) == then


def test_a_snapshot_shares_the_memory_of_the_variables():
    model = train(small())
    capture = Capture(LiveModel(model))
    first, second = (capture(Moment(), {}, {}) for _ in range(2))
    pairs = [
        (as_array(a), as_array(b))
        for a, b in zip(first.tensors, second.tensors, strict=True)
        if a.shape.rank
    ]
    assert len(pairs) >= 20
    assert all(np.shares_memory(a, b) for a, b in pairs)


def test_making_a_snapshot_leaves_the_model_as_it_was():
    model = train(small(loss="mse"))
    before = fingerprint(model)
    snapshot_of(model)
    assert fingerprint(model) == before


def test_every_variable_is_in_a_snapshot_once():
    model = train(small())
    blueprint = LiveModel(model).blueprint
    roles = [variable.role for variable in blueprint.variables]
    assert roles.count("weight") == len(model.weights) == 8
    assert roles.count("optimizer") == len(model.optimizer.variables) == 14
    assert roles.count("seed") == 1
    assert roles.count("metric") == len(model.metrics_variables) > 2
    assert [variable.name for variable in blueprint.variables[:8]] == [
        weight.path for weight in model.weights
    ]


def test_the_state_of_a_stateful_recurrent_layer_is_in_a_snapshot():
    model = keras.Sequential([keras.Input((5, 3), batch_size=4), layers.GRU(2, stateful=True)])
    model.compile("sgd", "mse")
    snapshot = snapshot_of(train(model))
    states = [
        as_array(tensor)
        for variable, tensor in zip(snapshot.blueprint.variables, snapshot.tensors, strict=True)
        if variable.name.endswith("rnn_state")
    ]
    assert len(states) == 1
    assert states[0].any()
    np.testing.assert_array_equal(states[0], model.layers[0].states[0].numpy())


def test_bfloat16_and_scalars_are_copied_bit_for_bit():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, dtype="bfloat16")])
    model.compile("sgd", "mse")
    train(model)
    assert contents(snapshot_of(model))[:2] == arrays(model.weights)


@keras.saving.register_keras_serializable("tests")
class Doubled(layers.Dense):
    """Saves a value that is not one of its variables."""

    def save_own_variables(self, store):
        super().save_own_variables(store)
        store["twice"] = 2 * keras.ops.convert_to_numpy(self.kernel)

    def load_own_variables(self, store):
        self.kernel.assign(store["0"])
        self.bias.assign(store["1"])
        self.twice = np.asarray(store["twice"])


def test_what_a_layer_computes_for_saving_is_computed_for_each_snapshot():
    model = keras.Sequential([keras.Input((4,)), Doubled(3)])
    model.compile("sgd", "mean_squared_error")
    capture = Capture(LiveModel(train(model)))
    for seed in (1, 2):
        train(model, seed=seed)
        twice = as_array(capture(Moment(), {}, {}).tensors[-1])
        np.testing.assert_array_equal(twice, 2 * model.layers[0].kernel.numpy())


def test_a_model_without_weights_is_an_error_with_a_remedy():
    model = keras.Sequential([layers.Dense(3)])
    with pytest.raises(ModelError, match=r"is not built: it has no weights yet.*\n  give it an I"):
        LiveModel(model)


def test_a_float8_layer_is_named_before_anything_is_trained():
    model = small()
    model.layers[0].quantize("float8")
    with pytest.raises(ModelError, match=r"float8(.|\n)*layer dense"):
        LiveModel(model)


def test_the_remedy_that_the_float8_error_names_works(tmp_path):
    model = keras.Sequential([keras.Input((16,)), layers.Dense(16)])
    model.layers[0].quantize("float8")
    with pytest.raises(ModelError, match=r"model\.save\('NAME\.keras'\)"):
        LiveModel(model)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    saved, found = (
        {each.path.split("dense")[-1]: each.numpy() for each in made.weights}
        for made in (model, loaded)
    )
    np.testing.assert_equal(
        {key.partition("/")[2]: value for key, value in found.items()},
        {key.partition("/")[2]: value for key, value in saved.items()},
    )


class Unserializable(layers.Layer):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, x):
        return self.function(x)


def test_a_layer_that_cannot_be_serialized_is_named():
    model = keras.Sequential([keras.Input((4,)), Unserializable(keras.ops.relu)])
    with pytest.raises(ModelError, match=r"Unserializable(.|\n)*get_config"):
        LiveModel(model)


def test_predictions_of_a_snapshot_taken_while_training_are_those_of_that_moment():
    model = train(small())
    x, _ = batch(model)
    expected = model.predict(x, verbose=0)
    snapshot = snapshot_of(model)
    train(model, steps=2, seed=5)
    other = keras.models.clone_model(model)
    other.set_weights([as_array(tensor) for tensor in snapshot.tensors[: len(model.weights)]])
    np.testing.assert_array_equal(other.predict(x, verbose=0), expected)
