"""Depth `predict`: what stock Keras loads gives the outputs of the snapshot, bit for bit."""

import keras
import numpy as np
import predict_models
import pytest
from formats_models import write
from training_builders import data, events, fit, model, names, plan, policy

import keras_savekit as sk
from keras_savekit.cli import main as cli
from keras_savekit.store.run import RunDirectory
from keras_savekit.verify.loader import probe
from keras_savekit.verify.loader.client import LoaderClient
from keras_savekit.verify.loader.predict import UnansweredError, compare

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checker():
    with LoaderClient() as checker:
        yield checker


def predicted(checker, made, tmp_path, save="model", form=None):
    directory, _ = write(tmp_path, made, save, form)
    found = checker.verify(directory, 1.0, "predict")
    assert (found.findings, found.not_portable) == ((), ())
    assert found.done
    return found.depth, found.note


@pytest.mark.parametrize("form", ["h5", "keras", "weights.h5"])
@pytest.mark.parametrize(
    "build",
    [
        predict_models.listed,
        predict_models.named,
        predict_models.images,
        predict_models.fixed_batch,
        predict_models.drawing,
        predict_models.small_numbers,
        predict_models.flags,
    ],
    ids=lambda build: build.__name__,
)
def test_a_good_model_is_called_with_a_batch_of_its_own_shapes(checker, build, form, tmp_path):
    save = "weights" if form == "weights.h5" else "model"
    assert predicted(checker, build(), tmp_path, save, form) == ("predict", "")


def test_a_vocabulary_that_stock_keras_does_not_read_is_a_note(checker, tmp_path):
    texts = predict_models.texts()
    assert predicted(checker, texts, tmp_path, form="keras") == ("predict", "")
    depth, note = predicted(checker, texts, tmp_path)
    assert depth == "load"
    assert note == "outputs were not compared: stock Keras does not read vocabularies from model.h5"


def test_a_model_that_accepts_no_batch_of_any_size_is_a_note(checker, tmp_path):
    reshaping = keras.Sequential([keras.Input((None,)), keras.layers.Reshape((7,))])
    depth, note = predicted(checker, reshaping, tmp_path)
    assert depth == "load"
    assert "outputs were not compared: the model does not accept the probe batch: " in note


def test_values_of_a_layer_that_stock_keras_does_not_read_are_reported(tmp_path):
    layer = predict_models.Remembering()
    made = predict_models.with_layer(layer)
    layer.number = 5.0
    for form in ("keras", "weights.h5"):
        save = "weights" if "weights" in form else "model"
        assert list(compare(made, *write(tmp_path, made, save, form), None)) == []
    directory, manifest = write(tmp_path, made)
    loaded = keras.models.load_model(directory / manifest.model_file)
    said = "does not read what layers save by themselves from model.h5"
    with pytest.raises(UnansweredError, match=said):
        list(compare(loaded, directory, manifest, None))


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (predict_models.undescribed, "the inputs of the model are not known: give SaveKit"),
        (lambda: predict_models.with_layer(predict_models.Whim()), "other outputs each time"),
    ],
)
def test_a_model_that_cannot_be_called_is_no_finding(build, said, tmp_path):
    made = build()
    with pytest.raises(UnansweredError, match=said):
        list(compare(made, *write(tmp_path, made), None))


def test_other_outputs_of_what_stock_keras_loaded_are_found(tmp_path):
    """All weights are equal, in a model that uses them in another way."""
    made = predict_models.listed()
    directory, manifest = write(tmp_path, made)
    assert list(compare(made, directory, manifest, None)) == []
    left, right = made.inputs
    other = keras.Model([left, right], [made.outputs[0] * -1, made.outputs[1]])
    other.set_weights(made.get_weights())
    (finding,) = compare(other, directory, manifest, None)
    assert (finding.kind, finding.where) == ("predict", "model.h5")
    assert finding.what == "what stock Keras loads gives other outputs on the probe batch"
    fewer = keras.Model([left, right], made.outputs[0])
    assert [each.what for each in compare(fewer, directory, manifest, None)] == [finding.what]
    failing = keras.Sequential([keras.Input((9,)), keras.layers.Dense(2)])
    (finding,) = compare(failing, directory, manifest, None)
    assert "what stock Keras loads fails on the probe batch: " in finding.what


def test_a_given_batch_is_used_and_one_that_does_not_fit_is_reported(tmp_path):
    made = predict_models.undescribed()
    directory, manifest = write(tmp_path, made)
    given = tmp_path / "given.npz"
    given.write_bytes(probe.to_bytes(np.ones((2, 3), np.float32)))
    assert list(compare(made, directory, manifest, given)) == []
    changed = predict_models.undescribed()
    changed.set_weights([2 * each for each in made.get_weights()])
    assert len(list(compare(changed, directory, manifest, given))) == 1
    given.write_bytes(probe.to_bytes(np.ones((2, 8), np.float32)))
    with pytest.raises(UnansweredError, match="does not accept the probe batch"):
        list(compare(made, directory, manifest, given))
    given.write_bytes(b"nothing")
    with pytest.raises(UnansweredError, match="the probe cannot be read"):
        list(compare(made, directory, manifest, given))


def of_a_policy(directory, **given):
    asked = policy(plan("train_end", verify="predict"))
    return sk.SaveKit(asked, directory=directory, **given)


def of_one_plan(directory, **given):
    return sk.FullModelSaver(directory, "train_end", verify="predict", **given)


@pytest.mark.parametrize("kit", [of_a_policy, of_one_plan])
def test_a_training_verifies_to_predict_with_the_probe_it_was_given(kit, tmp_path, capsys):
    batch = np.full((3, 3), 0.5, np.float32)
    on = data()
    fit(model(), kit(tmp_path, data=on, probe=batch), on=on, epochs=1)
    (name,) = names(tmp_path)
    assert RunDirectory(tmp_path).open(name).verification.depth == "predict"
    assert events(tmp_path, "verified")[0]["depth"] == "predict"
    np.testing.assert_array_equal(probe.read(tmp_path / probe.PROBE), batch)
    # `savekit verify` uses the saved batch.
    (tmp_path / probe.PROBE).write_bytes(probe.to_bytes(np.ones((2, 8), np.float32)))
    assert cli.run(["verify", str(tmp_path), "--depth", "predict"]) == 0
    out = capsys.readouterr().out
    assert f"good  {name}  load" in out
    assert "outputs were not compared: the model does not accept the probe batch" in out
    assert RunDirectory(tmp_path).open(name).verification.depth == "predict"  # it was, once


def test_one_file_is_verified_to_predict(tmp_path):
    sk.save_model(predict_models.named(), tmp_path / "m.keras", verify="predict")
    assert (tmp_path / "m.keras").exists()
