"""Random models: each format restores any small stack of layers, bit for bit."""

import keras
import numpy as np
import pytest
from formats_models import arrays, batch, fingerprint, layers, train, write
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import keras_savekit as sk

pytestmark = pytest.mark.slow

LAYERS = {
    "dense": lambda **given: layers.Dense(3, activation="tanh", **given),
    "unbiased": lambda **given: layers.Dense(4, use_bias=False, **given),
    "normalized": layers.LayerNormalization,
    "batches": layers.BatchNormalization,
    "dropout": lambda **given: layers.Dropout(0.3, **given),
    "convolution": lambda **given: layers.Conv1D(3, 2, padding="same", **given),
    "separable": lambda **given: layers.SeparableConv1D(3, 2, padding="same", **given),
    "recurrent": lambda **given: layers.GRU(
        3,
        return_sequences=True,
        # TensorFlow has no orthogonal initializer for bfloat16.
        recurrent_initializer="glorot_uniform",
        **given,
    ),
    "scaled": lambda **given: layers.PReLU(shared_axes=[1], **given),
}
DTYPES = ["float32", "float64", "float16", "bfloat16", "mixed_bfloat16"]
OPTIMIZERS = ["sgd", "adam", "rmsprop", "adagrad", "nadam", "adafactor", "lion", "ftrl"]
# Keras refuses a slash in the name of a layer; HDF5 a part that is "." and a NUL byte.
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12)


RECIPES = st.builds(
    dict,
    stack=st.lists(
        st.tuples(st.sampled_from(sorted(LAYERS)), NAMES, st.sampled_from(DTYPES)),
        min_size=1,
        max_size=4,
        unique_by=lambda layer: layer[1],
    ),
    optimizer=st.sampled_from(OPTIMIZERS),
    loss=st.sampled_from(["mse", "mae", "huber"]),
)


def made(stack, optimizer, loss):
    """A trained model of these layers."""
    model = keras.Sequential(
        [
            keras.Input((4, 2)),
            *(LAYERS[kind](name=f"{name}!", dtype=dtype) for kind, name, dtype in stack),
            layers.Dense(2, name="last"),
        ]
    )
    model.compile(optimizer, loss)
    return train(model, steps=1)


# Without shrinking: it would build models for minutes, and each is small already.
@settings(max_examples=15, deadline=None, derandomize=True, phases=[Phase.generate])
@given(RECIPES)
def test_every_format_restores_any_small_model(tmp_path_factory, recipe):
    model = made(**recipe)
    directory = tmp_path_factory.mktemp("any")
    before = fingerprint(model)
    saved = [write(directory, model, form=form) for form in ("h5", "keras")]
    saved.append(write(directory, model, "weights"))
    assert fingerprint(model) == before
    x, _ = batch(model)
    for path, manifest in saved:
        ours = sk.load_model(path)
        assert arrays(ours.variables) == arrays(model.variables)
        assert arrays(ours.optimizer.variables) == arrays(model.optimizer.variables)
        if manifest.save == "model":
            stock = keras.models.load_model(path / manifest.model_file)
            assert arrays(stock.weights) == arrays(model.weights)
            np.testing.assert_array_equal(stock(x), model(x))
            train(stock, steps=1)


def test_an_application_is_restored(tmp_path):
    build = keras.applications.MobileNetV2
    model = build(weights=None, input_shape=(32, 32, 3), classes=3)
    model.compile("adam", "categorical_crossentropy")
    path, manifest = write(tmp_path, train(model, steps=1))
    ours = sk.load_model(path)
    stock = keras.models.load_model(path / manifest.model_file)
    assert arrays(stock.weights) == arrays(ours.weights) == arrays(model.weights)
    assert arrays(ours.optimizer.variables) == arrays(model.optimizer.variables)
