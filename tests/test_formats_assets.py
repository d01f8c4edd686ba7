"""Vocabularies and other assets, which stock Keras forgets in `.h5` files, come back."""

import keras
import numpy as np
import pytest
from formats_models import layers, write

import keras_savekit as sk

pytestmark = pytest.mark.slow
WORDS = np.array([["one two"], ["two three three"]])


@pytest.fixture(scope="module")
def model():
    vectorize = layers.TextVectorization(output_sequence_length=4)
    vectorize.adapt(["one two three", "three four"])
    inputs = keras.Input((1,), dtype="string")
    embedded = layers.Embedding(8, 2)(vectorize(inputs))
    return keras.Model(inputs, layers.Dense(1)(layers.Flatten()(embedded)))


def same(loaded, model):
    words = keras.ops.convert_to_tensor(WORDS)
    np.testing.assert_array_equal(loaded(words), model(words))
    assert loaded.layers[1].get_vocabulary() == model.layers[1].get_vocabulary()


def test_a_vocabulary_comes_back_from_one_file_and_its_loss_elsewhere_is_told(model, tmp_path):
    with pytest.warns(sk.SavekitWarning, match=r"vocabularies of .*text_vectorization"):
        sk.save_model(model, tmp_path / "m.h5", verify="structure")
    same(sk.load_model(tmp_path / "m.h5"), model)


@pytest.mark.parametrize("form", ["h5", "keras"])
def test_a_vocabulary_comes_back_from_a_checkpoint(form, model, tmp_path):
    directory, _ = write(tmp_path, model, form=form)
    same(sk.load_model(directory), model)


def test_stock_keras_finds_the_vocabulary_in_an_archive(model, tmp_path):
    sk.save_model(model, tmp_path / "m.keras", verify="load")
    same(keras.models.load_model(tmp_path / "m.keras"), model)
    same(sk.load_model(tmp_path / "m.keras"), model)


def test_a_vocabulary_comes_back_with_separate_weights(model, tmp_path):
    directory, _ = write(tmp_path, model, "weights")
    same(sk.load_model(directory), model)
