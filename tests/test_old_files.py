"""Files that version 0.1 wrote still load. `fixtures/v0_1/README.md` says how they were made."""

import importlib.util
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_savekit as sk
from keras_savekit.cli import main as cli

HOME = Path(__file__).with_name("fixtures") / "v0_1"
EXPECTED = dict(np.load(HOME / "expected.npz"))
MODEL, WEIGHTS = "000000008-model", "000000006-weights"
# Another version of TensorFlow, or another processor, rounds differently.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def load_program():
    """`make.py` as a module: the model and the data of the run."""
    spec = importlib.util.spec_from_file_location("make_v0_1", HOME / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = load_program()


@pytest.fixture
def run(tmp_path):
    """A copy: a resume and a verification write into the directory."""
    return shutil.copytree(HOME / "run", tmp_path / "run", symlinks=True)


def run_id(directory):
    return json.loads((directory / "savekit.json").read_text())["run"]


def predict(model):
    return np.asarray(model(EXPECTED["x"], training=False))


def test_a_checkpoint_of_a_model_loads_with_its_optimizer(run):
    model = sk.load_model(run / "checkpoints" / MODEL)
    np.testing.assert_allclose(predict(model), EXPECTED["model"], **CLOSE)
    assert int(model.optimizer.iterations.numpy()) == 8


@pytest.mark.parametrize("load", [sk.load_model, keras.models.load_model])
def test_the_model_file_of_a_checkpoint_loads_alone(load, run):
    model = load(run / "checkpoints" / MODEL / "model.h5")
    np.testing.assert_allclose(predict(model), EXPECTED["model"], **CLOSE)


def test_a_checkpoint_of_weights_fills_a_model(run):
    model = make.model()
    sk.load_weights(model, run / "checkpoints" / WEIGHTS)
    np.testing.assert_allclose(predict(model), EXPECTED["weights"], **CLOSE)


@pytest.mark.parametrize(("which", "step"), [("latest", 8), (WEIGHTS, 6)])
def test_a_checkpoint_is_restored_by_name(run, which, step):
    model = make.model()
    restored = sk.restore(model, run, which=which)
    assert restored.moment.step == step
    expected = EXPECTED["model" if step == 8 else "weights"]
    np.testing.assert_allclose(predict(model), expected, **CLOSE)


def test_an_interrupted_training_resumes_to_the_weights_of_an_uninterrupted_one(run):
    model, data = make.model(), make.data()
    kit = sk.SaveKit(make.POLICY, directory=run, data=data)
    model.fit(data, epochs=make.EPOCHS, verbose=0, shuffle=False, callbacks=[kit])
    assert kit.resumed.name == MODEL
    assert kit.resumed.moment.step == make.STEPS
    assert kit.resumed.passed_over == ()
    for weight in model.weights:
        np.testing.assert_allclose(weight.numpy(), EXPECTED[f"final/{weight.path}"], **CLOSE)
    assert run_id(run) == run_id(HOME / "run")


def test_the_command_line_lists_and_verifies_the_run(run, capsys):
    assert cli.run(["list", str(run), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {MODEL, WEIGHTS} == {checkpoint["name"] for checkpoint in listed["checkpoints"]}
    assert cli.run(["verify", str(run)]) == 0
    assert cli.run(["resume-plan", str(run)]) == 0
    assert MODEL in capsys.readouterr().out


# Keras 3.3 writes a single input as a list of one, and later versions warn of a tensor for it.
@pytest.mark.filterwarnings(r"ignore:(?s).*structure of `inputs` doesn't match:UserWarning")
@pytest.mark.parametrize("name", ["converted.keras", "converted.h5"])
@pytest.mark.parametrize("load", [sk.load_model, keras.models.load_model])
def test_a_converted_model_loads_and_computes_the_same(name, load):
    model = load(HOME / name, safe_mode=False)
    np.testing.assert_allclose(predict(model), EXPECTED["converted"], **CLOSE)
    assert [weight.path for weight in model.trainable_weights] == ["scaler/bias", "scaler/kernel"]
