"""Vocabularies and other assets, which stock Keras loses in `.h5` files, are restored."""

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


def test_one_file_restores_a_vocabulary_and_its_loss_in_stock_keras_is_reported(model, tmp_path):
    with pytest.warns(sk.SavekitWarning, match=r"vocabularies of .*text_vectorization"):
        sk.save_model(model, tmp_path / "m.h5", verify="structure")
    same(sk.load_model(tmp_path / "m.h5"), model)


@pytest.mark.parametrize("form", ["h5", "keras"])
def test_a_vocabulary_is_restored_from_a_checkpoint(form, model, tmp_path):
    directory, _ = write(tmp_path, model, form=form)
    same(sk.load_model(directory), model)


def test_stock_keras_finds_the_vocabulary_in_an_archive(model, tmp_path):
    sk.save_model(model, tmp_path / "m.keras", verify="load")
    same(keras.models.load_model(tmp_path / "m.keras"), model)
    same(sk.load_model(tmp_path / "m.keras"), model)


def test_a_vocabulary_is_restored_with_separate_weights(model, tmp_path):
    directory, _ = write(tmp_path, model, "weights")
    same(sk.load_model(directory), model)


@pytest.mark.filterwarnings("ignore:stock Keras does not read the vocabularies")
def test_a_damaged_vocabulary_in_one_file_is_found(model, tmp_path):
    path = tmp_path / "m.h5"
    sk.save_model(model, path, verify="structure")
    content = bytearray(path.read_bytes())
    spot = content.index(b"three")
    content[spot] = ord("T")
    path.write_bytes(content)
    with pytest.raises(sk.CheckpointError, match="vocabulary"):
        sk.load_model(path)


@pytest.mark.filterwarnings("ignore:stock Keras does not read the vocabularies")
def test_a_resume_restores_the_vocabulary(tmp_path):
    def trained(words, epochs):
        vectorize = layers.TextVectorization(max_tokens=8, output_sequence_length=4)
        vectorize.adapt(words)
        inputs = keras.Input((1,), dtype="string")
        embedded = layers.Embedding(8, 2)(vectorize(inputs))
        made = keras.Model(inputs, layers.Dense(1)(layers.GlobalAveragePooling1D()(embedded)))
        made.compile("sgd", "mse", jit_compile=False)
        kit = sk.WeightsSaver(tmp_path, when="every epoch")
        x = keras.ops.convert_to_tensor(WORDS)
        made.fit(x, np.zeros((2, 1)), epochs=epochs, verbose=0, callbacks=[kit])
        return vectorize.get_vocabulary()

    first = trained(["one two three", "three four"], 1)
    assert trained(["other words"], 2) == first
