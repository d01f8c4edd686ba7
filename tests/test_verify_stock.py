"""A model is kept and loads the next checkpoint, and hides none of its faults."""

import h5py
import keras
import numpy as np
import pytest
from formats_models import layers, seal_again, small, train, write

from keras_savekit.verify.loader import stock_load
from keras_savekit.verify.loader.stock_load import StockLoader

pytestmark = pytest.mark.slow


@pytest.fixture
def built(monkeypatch):
    """The calls that built a model."""
    calls = []
    load = stock_load._load
    monkeypatch.setattr(stock_load, "_load", lambda *given: calls.append(given) or load(*given))
    return calls


def saved(tmp_path, model, form):
    return write(tmp_path, model, "weights" if "weights" in form else "model", form)


@pytest.mark.parametrize(("form", "times"), [("h5", 1), ("weights.h5", 1), ("keras", 3)])
def test_a_model_is_built_once_while_weights_are_all_that_changes(form, times, built, tmp_path):
    """Loading a `.keras` file reads more than weights: the optimizer and vocabularies."""
    model, kept = small(), StockLoader()
    for step in range(3):
        directory, _ = saved(tmp_path, train(model, seed=step), form)
        result = kept.load(directory, "load", None)
        assert (result.reached, result.not_portable, result.note) == ("load", (), "")
    assert len(built) == times


def another_optimizer():
    return small(optimizer="sgd")


def another_layer():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(8), layers.Dense(3)])
    model.compile("adam", "mse")
    return model


@pytest.mark.parametrize("other", [another_optimizer, another_layer])
def test_another_configuration_is_built_again(other, built, tmp_path):
    kept = StockLoader()
    for model in (small(), other(), small()):
        directory, _ = write(tmp_path, train(model))
        assert not kept.load(directory, "load", None).not_portable
    assert len(built) == 3


def test_a_model_that_was_called_is_not_kept(built, tmp_path):
    kept = StockLoader()
    directory, _ = write(tmp_path, train(small()))
    for depth in ("predict", "load", "predict", "load"):
        assert not kept.load(directory, depth, None).not_portable
    assert len(built) == 4


@pytest.mark.parametrize("form", ["h5", "weights.h5"])
def test_a_wrong_weight_is_found_in_a_kept_model(form, built, tmp_path):
    """The finding is the one of a new model, and the next good checkpoint is good."""
    model, kept = train(small()), StockLoader()
    good, _ = saved(tmp_path, model, form)
    assert not kept.load(good, "load", None).not_portable
    wrong, manifest = saved(tmp_path, train(model, seed=1), form)
    name, path = manifest.tensors[0].places[0].split(":")
    with h5py.File(wrong / name, "r+") as file:
        file[path][...] = file[path][()] + 1
    seal_again(wrong, manifest)
    (finding,) = kept.load(wrong, "load", None).not_portable
    assert finding.what == f"{manifest.tensors[0].name} differs after loading"
    assert not kept.load(good, "load", None).not_portable
    assert len(built) == 3


def leave_all_out(*given):
    """The same checkpoint again: values left from the first load would be right."""


def fail(*given):
    raise ValueError("Layer count mismatch")


@pytest.mark.parametrize("filling", [leave_all_out, fail])
def test_a_kept_model_that_does_not_load_is_built_again(filling, built, monkeypatch, tmp_path):
    kept = StockLoader()
    directory, _ = write(tmp_path, train(small()))
    kept.load(directory, "load", None)
    monkeypatch.setattr(keras.Model, "load_weights", filling)
    assert not kept.load(directory, "load", None).not_portable
    assert len(built) == 2


def test_the_architecture_in_the_manifest_is_compared_again(built, tmp_path):
    kept = StockLoader()
    directory, manifest = write(tmp_path, train(small()))
    kept.load(directory, "load", None)
    seal_again(directory, manifest, architecture="0" * 32)
    kept.load(directory, "load", None)
    assert len(built) == 2


def test_a_lack_of_memory_while_loading_is_no_finding(monkeypatch, tmp_path):
    kept = StockLoader()
    directory, _ = write(tmp_path, train(small()))
    kept.load(directory, "load", None)

    def fail(*given):
        raise MemoryError("Unable to allocate 4 GiB")

    with monkeypatch.context() as patched:
        patched.setattr(keras.Model, "load_weights", fail)
        with pytest.raises(MemoryError, match="4 GiB"):
            kept.load(directory, "load", None)
    assert not kept.load(directory, "load", None).not_portable


class Counting(layers.Layer):
    """Weights of many types."""

    def build(self, shape):
        self.steps = self.add_weight(shape=(2, 3), dtype="int8", initializer="ones")
        self.seen = self.add_weight(shape=(3,), dtype="bool", initializer="zeros")
        self.half = self.add_weight(shape=(3,), dtype="bfloat16", initializer="ones")
        self.whole = self.add_weight(shape=(), dtype="float32", initializer="ones")

    def call(self, x):
        return x


def test_no_loaded_value_remains_in_a_kept_model():
    model = keras.Sequential([keras.Input((4,)), Counting()])
    stock_load._blank(model)
    steps, seen, half, whole = (keras.ops.convert_to_numpy(each) for each in model.weights)
    assert np.array_equal(steps, np.full((2, 3), -2))
    assert seen.all()
    assert np.isnan(half.astype("float32")).all()
    assert np.isnan(whole)


class Turning(layers.Layer):
    """A weight of complex numbers."""

    def build(self, shape):
        self.phase = self.add_weight(shape=(2,), dtype="complex64", initializer="ones")

    def call(self, x):
        return x


def has_complex_numbers():
    try:
        return keras.backend.standardize_dtype("complex64") == "complex64"
    except ValueError:
        return False


@pytest.mark.skipif(not has_complex_numbers(), reason="older versions of Keras have none")
def test_no_complex_number_remains_in_a_kept_model():
    model = keras.Sequential([keras.Input((4,)), Turning()])
    stock_load._blank(model)
    assert np.isnan(keras.ops.convert_to_numpy(model.weights[0])).all()
