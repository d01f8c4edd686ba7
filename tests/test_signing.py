"""Signed manifests: what is not signed with the run's key is refused, and the key is nowhere."""

import base64
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_store_builders import prepared
from training_builders import data, fit, model, names, plan, policy

import keras_savekit as sk
from keras_savekit.cli import main as cli
from keras_savekit.formats import training_state
from keras_savekit.store import signing
from keras_savekit.store.directory import RunDirectory
from keras_savekit.store.manifest import MANIFEST, SignatureError, read_manifest, to_json

ROOT = Path(__file__).parent.parent / "keras_savekit"
KEY = "a key that nobody guesses"
ASKED = {"key": "env RUN_KEY"}


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("RUN_KEY", KEY)


def train(directory, epochs=1, **changes):
    on = data()
    asked = policy(plan("every 4 steps", **changes), signing=ASKED)
    kit = sk.SaveKit(asked, directory=directory, data=on)
    made = model()
    fit(made, kit, on=on, epochs=epochs)
    return kit, made


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("signed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUN_KEY", KEY)
        train(directory, keep="all", when_busy="wait", epochs=2)
    return directory


@pytest.fixture
def run(trained, tmp_path):
    subprocess.run(["cp", "-a", trained, tmp_path / "run"], check=True)
    return tmp_path / "run"


def newest(run):
    return run / "checkpoints" / names(run)[-1]


def forge(checkpoint, key=None):
    """Change a manifest, and seal it anew; sign it with another key, or not at all."""
    manifest = read_manifest(checkpoint)
    values = {name: getattr(manifest, name) for name in manifest.__slots__}
    forged = type(manifest)(**{**values, "reasons": ("forged",)})
    (checkpoint / MANIFEST).write_bytes(to_json(forged, key))


def test_what_was_signed_is_verified_resumed_from_restored_and_loaded(run):
    assert {each.status for each in RunDirectory(run).checkpoints()} == {"verified"}
    read_manifest(newest(run), KEY.encode())
    kit, made = train(run, epochs=2)
    assert kit.resumed.name == names(run)[-1]
    sk.restore(model(), run)
    loaded = sk.load_model(newest(run), key=KEY.encode())
    np.testing.assert_array_equal(loaded.weights[0], made.weights[0])
    assert cli.run(["verify", str(run)]) == 0


@pytest.mark.parametrize("other", [None, b"another"], ids=["unsigned", "signed with another key"])
def test_what_is_not_signed_with_the_key_is_refused_and_the_one_before_it_serves(
    run, other, capsys
):
    forged = newest(run)
    before = names(run)[-2]
    forge(forged, other)
    assert read_manifest(forged).reasons == ("forged",)  # to whoever does not ask it is whole
    with pytest.raises(SignatureError, match=r"signed|signature"):
        sk.load_model(forged, key=KEY.encode())
    with pytest.raises(SignatureError):
        sk.load_weights(model(), forged, key=KEY.encode())
    with pytest.raises(SignatureError):
        sk.restore(model(), run, forged.name)
    assert sk.restore(model(), run).name == before
    assert cli.run(["verify", str(run)]) == 1
    assert cli.run(["resume-plan", str(run)]) == 0
    assert f"would resume from {before}" in capsys.readouterr().out
    kit, _ = train(run, epochs=2)
    assert kit.resumed.name == before
    assert RunDirectory(run).quarantined()[0][0] == forged.name


def test_with_another_key_nothing_is_changed_and_one_error_says_so(run, monkeypatch):
    before = names(run)
    monkeypatch.setenv("RUN_KEY", "mistyped")
    with pytest.raises(sk.ResumeError, match="no checkpoint is signed with this key"):
        train(run)
    assert names(run) == before
    assert RunDirectory(run).quarantined() == []


def test_a_verification_with_a_mistyped_key_accuses_nothing_for_good(run, monkeypatch):
    monkeypatch.setenv("RUN_KEY", "mistyped")
    assert cli.run(["verify", str(run)]) == 1
    assert {each.status for each in RunDirectory(run).checkpoints()} == {"verified"}


def test_files_behind_a_good_signature_are_compared_before_a_named_one_is_restored(run):
    damaged = newest(run)
    content = bytearray((damaged / "model.h5").read_bytes())
    content[8] ^= 1  # of HDF5's own, which no tensor's digest covers
    (damaged / "model.h5").write_bytes(content)
    with pytest.raises(sk.CheckpointError, match="is damaged"):
        sk.restore(model(), run, damaged.name)


@pytest.mark.parametrize("value", [None, ""])
def test_without_the_key_the_variable_is_named_before_anything_begins(
    run, tmp_path, monkeypatch, value, capsys
):
    if value is None:
        monkeypatch.delenv("RUN_KEY")
    else:
        monkeypatch.setenv("RUN_KEY", value)
    with pytest.raises(sk.SavekitError, match="the key in RUN_KEY, which is not set"):
        train(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert cli.run(["verify", str(run)]) == 2
    assert "RUN_KEY" in capsys.readouterr().err


def test_the_key_is_in_no_file_of_a_run_and_in_nothing_that_is_told(run, capsys):
    forge(newest(run), b"another")
    train(run, epochs=3)
    told = capsys.readouterr()
    written = b"".join(path.read_bytes() for path in run.rglob("*") if path.is_file())
    for form in (KEY, KEY.encode().hex(), base64.b64encode(KEY.encode()).decode()):
        assert form.encode() not in written
        assert form not in told.out + told.err
    assert KEY not in repr(RunDirectory(run, KEY.encode()))


def test_a_lone_file_has_no_signature(tmp_path):
    sk.save_model(model(), tmp_path / "m.h5")
    with pytest.raises(sk.CheckpointError, match="only checkpoints of a run are signed"):
        sk.load_model(tmp_path / "m.h5", key=b"any")


def test_every_byte_before_a_signature_counts():
    text = signing.signed(b'{\n  "a": 1', b"k")
    assert signing.wrong_with(text, b"k") == ""
    for position in range(len(text)):
        other = bytearray(text)
        other[position] ^= 1
        assert signing.wrong_with(bytes(other), b"k")
    assert signing.wrong_with(b"", b"k") == "is not signed"


# Nothing is unpickled, and no code of a file runs unasked.


def test_nothing_in_the_package_unpickles():
    unsafe = r"\b(pickle|cPickle|marshal|shelve|dill|joblib|cloudpickle)\b\s*(\.|import|$)"
    allowed = r"allow_pickle\s*=\s*True|yaml\.(unsafe_|full_)?load\(|yaml\.Loader"
    for path in ROOT.rglob("*.py"):
        code = "\n".join(line.partition("#")[0] for line in path.read_text().splitlines())
        assert not re.search(rf"import {unsafe}|from {unsafe}|{allowed}", code), path


class Bomb:
    def __reduce__(self):
        return (sys.exit, ("unpickled",))


def test_a_pickle_where_the_state_belongs_is_refused_and_not_run(tmp_path):
    import pickle

    (tmp_path / "state.h5").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(sk.CheckpointError, match="the training state cannot be read"):
        training_state.read(tmp_path / "state.h5")
    run = prepared(tmp_path / "run")
    (run.checkpoints_path / "000000001-p").mkdir()
    (run.checkpoints_path / "000000001-p" / MANIFEST).write_bytes(pickle.dumps(Bomb()))
    ((_, error),) = run.damaged()
    assert "malformed" in error.what
