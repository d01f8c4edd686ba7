"""Signed manifests: what is not signed with the run's key is refused, and the key is nowhere."""

import base64
import hashlib
import json
import logging
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import xxhash
from forging import forged
from test_store_builders import prepared
from training_builders import data, events, fit, names, plan, policy

import keras_savekit as sk
from keras_savekit.base.key import Key
from keras_savekit.cli import main as cli
from keras_savekit.formats import state_h5
from keras_savekit.store import manifest_json
from keras_savekit.store.manifest import MANIFEST, SignatureError, UnhashedError, split_place
from keras_savekit.store.manifest_json import read_manifest, to_json
from keras_savekit.store.run import RunDirectory
from keras_savekit.verify.loader.client import LoaderClient

ROOT = Path(__file__).parent.parent / "keras_savekit"
SECRET = b"a key that nobody guesses"
KEY, ANOTHER = Key(SECRET), Key(b"another")
ASKED = {"key": "env RUN_KEY"}


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("RUN_KEY", SECRET.decode())


def model():
    """One of its tensors is so large that it begins at a page of its file."""
    keras.utils.set_random_seed(7)
    made = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(128),
            keras.layers.Dense(128, name="large"),
            keras.layers.Dense(1),
        ]
    )
    made.compile("sgd", "mse")
    return made


def train(directory, epochs=1, signing=ASKED, **changes):
    on = data()
    asked = policy(plan("every 4 steps", **changes), signing=signing)
    kit = sk.SaveKit(asked, directory=directory, data=on)
    made = model()
    fit(made, kit, on=on, epochs=epochs)
    return kit, made


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("signed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUN_KEY", SECRET.decode())
        train(directory, keep="all", when_busy="wait", epochs=2)
    return directory


@pytest.fixture
def run(trained, tmp_path):
    subprocess.run(["cp", "-a", trained, tmp_path / "run"], check=True)
    return tmp_path / "run"


def newest(run):
    return run / "checkpoints" / names(run)[-1]


def rewrite(checkpoint, key=None, **changes):
    """Change a manifest, and seal it anew; sign it with a key, or not at all."""
    manifest = read_manifest(checkpoint)
    values = {name: getattr(manifest, name) for name in manifest.__slots__}
    (checkpoint / MANIFEST).write_bytes(to_json(type(manifest)(**{**values, **changes}), key))


def forge(checkpoint, key=None):
    rewrite(checkpoint, key, reasons=("forged",))


def forge_weights(checkpoint):
    """Other weights, and yet every size and every xxh3_128 as before."""
    (large,) = (
        each for each in read_manifest(checkpoint).tensors if each.name.endswith("large/kernel")
    )
    name, place = split_place(large.places[0])
    with h5py.File(checkpoint / name) as file:
        begin = file[place].id.get_offset()
    before = (checkpoint / name).read_bytes()
    after = forged(before, begin, np.full(100, 0.5, "float32").tobytes())
    assert after != before
    assert xxhash.xxh3_128_hexdigest(after) == xxhash.xxh3_128_hexdigest(before)
    (checkpoint / name).write_bytes(after)


def test_what_was_signed_is_verified_resumed_from_restored_and_loaded(run):
    assert {each.status for each in RunDirectory(run).checkpoints()} == {"verified"}
    read_manifest(newest(run), KEY)
    kit, made = train(run, epochs=2)
    assert kit.resumed.name == names(run)[-1]
    sk.restore(model(), run)
    sk.restore(model(), run, key=SECRET)
    loaded = sk.load_model(newest(run), key=SECRET)
    np.testing.assert_array_equal(loaded.weights[0], made.weights[0])
    assert cli.run(["verify", str(run)]) == 0


def refused_everywhere(run, error, match, capsys):
    """The newest of a run by whatever reads it with the key; the one before serves instead."""
    refused, before = newest(run), names(run)[-2]
    with pytest.raises(error, match=match):
        sk.load_model(refused, key=SECRET)
    with pytest.raises(error, match=match):
        sk.load_weights(model(), refused, key=SECRET)
    for given in ({}, {"key": SECRET}):
        with pytest.raises(error, match=match):
            sk.restore(model(), run, refused.name, **given)
        assert sk.restore(model(), run, **given).name == before
    for depth in ("bytes", "structure"):
        assert cli.run(["verify", str(run), "--depth", depth]) == 1
        assert re.search(match, capsys.readouterr().out)
    assert cli.run(["resume-plan", str(run)]) == 0
    assert f"would resume from {before}" in capsys.readouterr().out
    kit, _ = train(run, epochs=2)
    assert kit.resumed.name == before
    assert RunDirectory(run).quarantined()[0][0] == refused.name


@pytest.mark.parametrize("other", [None, ANOTHER], ids=["unsigned", "signed with another key"])
def test_what_is_not_signed_with_the_key_is_refused_and_the_one_before_it_serves(
    run, other, capsys
):
    forge(newest(run), other)
    assert read_manifest(newest(run)).reasons == ("forged",)  # to whoever does not ask it is whole
    refused_everywhere(run, SignatureError, r"is not signed|its signature is wrong", capsys)


def test_weights_that_were_replaced_and_kept_their_xxh3_128_are_refused(run, capsys):
    forge_weights(newest(run))
    with LoaderClient() as without_a_key:  # nobody can tell
        assert without_a_key.verify(newest(run), 0.0, "structure").good
    kernel = sk.load_model(newest(run)).get_layer("large").kernel.numpy()
    assert (kernel.ravel()[:100] == 0.5).all()
    match = "the same xxh3_128 and another SHA-256"
    refused_everywhere(run, sk.CheckpointError, match, capsys)


def without_sha256(checkpoint):
    files = tuple(replace(each, sha256=None) for each in read_manifest(checkpoint).files)
    rewrite(checkpoint, KEY, files=files)


def test_a_signed_manifest_without_sha256_of_its_files_vouches_for_nothing(run, capsys):
    without_sha256(newest(run))
    read_manifest(newest(run))
    refused_everywhere(run, UnhashedError, r"signed without a SHA-256 of model\.h5", capsys)


def test_where_no_checkpoint_has_sha256_nothing_is_changed_and_one_error_says_so(run):
    for name in names(run):
        without_sha256(run / "checkpoints" / name)
    with pytest.raises(sk.ResumeError, match=r"authenticates no checkpoint.*without a SHA-256"):
        train(run)
    assert RunDirectory(run).quarantined() == []
    assert {each.status for each in RunDirectory(run).checkpoints()} == {"verified"}


SHAPES = [
    {"format": "h5"},
    {"format": "h5", "reuse": True},
    {"format": "h5", "compression": "gzip"},
    {"format": "keras"},
    {"save": "weights"},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_sha256_of_every_file_is_under_the_signature(tmp_path, shape):
    train(tmp_path, keep="all", when_busy="wait", **shape)
    for name in names(tmp_path):
        path = tmp_path / "checkpoints" / name
        promised = {each.name: each.sha256 for each in read_manifest(path, KEY).files}
        assert promised == {
            each: hashlib.sha256((path / each).read_bytes()).hexdigest() for each in promised
        }
        there = {each.name for each in path.iterdir()}
        assert there == {*promised, MANIFEST, "verification.json"}


def test_without_a_key_a_manifest_is_what_it_always_was(tmp_path):
    train(tmp_path, signing=None)
    said = json.loads((newest(tmp_path) / MANIFEST).read_text())
    assert {*said["files"][0]} == {"name", "size", "digest"}
    assert "signature" not in said


def test_with_another_key_nothing_is_changed_and_one_error_says_so(run, monkeypatch, capsys):
    before = names(run)
    monkeypatch.setenv("RUN_KEY", "mistyped")
    with pytest.raises(sk.ResumeError, match="the key authenticates no checkpoint"):
        train(run)
    assert names(run) == before
    assert RunDirectory(run).quarantined() == []
    assert cli.run(["resume-plan", str(run)]) == 1
    said = capsys.readouterr().out
    assert "the key authenticates no checkpoint: a training would not start" in said


def test_a_verification_with_a_mistyped_key_accuses_nothing_for_good(run, monkeypatch, capsys):
    monkeypatch.setenv("RUN_KEY", "mistyped")
    assert cli.run(["verify", str(run)]) == 1
    assert {each.status for each in RunDirectory(run).checkpoints()} == {"verified"}
    assert "cannot be written" not in capsys.readouterr().err


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


# Who asks from outside is not talked out of it by the directory.


@pytest.fixture
def talked_out_of_it(run):
    """Someone replaced the newest checkpoint, and says that nothing was ever signed."""
    forge(newest(run))
    said = json.loads((run / "savekit.json").read_text())
    said["policy"]["signing"] = None
    (run / "savekit.json").write_text(json.dumps(said))
    return run


def test_with_key_env_the_key_is_required_whatever_the_run_says_of_itself(
    talked_out_of_it, monkeypatch, capsys
):
    run, before = talked_out_of_it, names(talked_out_of_it)[-2]
    monkeypatch.setenv("MINE", SECRET.decode())
    assert cli.run(["verify", str(run)]) == 0
    assert cli.run(["verify", str(newest(run))]) == 0
    assert cli.run(["verify", str(run), "--key-env", "MINE"]) == 1
    assert "is not signed" in capsys.readouterr().out
    assert cli.run(["verify", str(newest(run)), "--key-env", "MINE"]) == 1
    assert cli.run(["resume-plan", str(run)]) == 0
    assert f"would resume from {newest(run).name}" in capsys.readouterr().out
    assert cli.run(["resume-plan", str(run), "--key-env", "MINE"]) == 0
    said = capsys.readouterr().out
    assert f"skipped {newest(run).name}: is not signed" in said
    assert f"would resume from {before}" in said
    assert sk.restore(model(), run).name == newest(run).name
    assert sk.restore(model(), run, key=SECRET).name == before


def test_a_checkpoint_on_its_own_is_verified_with_a_key_too(run, tmp_path, monkeypatch):
    subprocess.run(["cp", "-a", newest(run), tmp_path / "alone"], check=True)
    monkeypatch.setenv("MINE", SECRET.decode())
    assert cli.run(["verify", str(tmp_path / "alone"), "--key-env", "MINE"]) == 0
    monkeypatch.setenv("MINE", "mistyped")
    assert cli.run(["verify", str(tmp_path / "alone"), "--key-env", "MINE"]) == 1


@pytest.mark.parametrize("command", ["verify", "resume-plan"])
def test_a_variable_that_is_not_set_is_one_error_and_a_key_in_its_place_is_not_repeated(
    run, command, monkeypatch, capsys
):
    monkeypatch.setenv("EMPTY", "")
    for name in ("UNSET", "EMPTY"):
        assert cli.run([command, str(run), "--key-env", name]) == 2
        said = capsys.readouterr()
        assert f"the key in {name}, which is not set [--key-env]" in said.err
        assert said.out == ""
    assert cli.run([command, str(run), "--key-env", "my-secret-key"]) == 2
    said = capsys.readouterr().err
    assert "must be the name of the variable" in said
    assert "my-secret-key" not in said


# What an earlier session left, before there was a key.


def unverified(checkpoint):
    (checkpoint / "verification.json").unlink()


@pytest.mark.parametrize("take", [forge, without_sha256], ids=["unsigned", "without SHA-256"])
def test_earlier_checkpoints_that_no_key_vouches_for_are_left_alone_and_told_once(run, take):
    earlier = names(run)[:2]
    for name in earlier:
        take(run / "checkpoints" / name)
        unverified(run / "checkpoints" / name)
    left = [(run / "checkpoints" / name / MANIFEST).read_bytes() for name in earlier]
    with pytest.warns(sk.SavekitWarning) as told:
        train(run, epochs=3, keep="all")
    assert [str(each.message).partition(":")[0] for each in told] == [
        "earlier checkpoints stay, and are not used with a key"
    ]
    assert [(run / "checkpoints" / name / MANIFEST).read_bytes() for name in earlier] == left
    assert RunDirectory(run).quarantined() == []
    assert [each["name"] for each in events(run, "unverified")] == earlier
    found = RunDirectory(run).checkpoints()
    assert [each.status for each in found[:2]] == ["unverified"] * 2
    assert {each.status for each in found[2:]} == {"verified"}


def test_an_earlier_checkpoint_with_another_signature_is_set_aside(run):
    earlier = run / "checkpoints" / names(run)[0]
    forge(earlier, ANOTHER)
    unverified(earlier)
    with pytest.warns(sk.SavekitWarning, match="its signature is wrong"):
        train(run, epochs=3, keep="all")
    assert RunDirectory(run).quarantined()[0][0] == earlier.name


# The key is nowhere.


def test_the_key_is_in_no_file_of_a_run_and_in_nothing_that_is_told(run, capsys, caplog):
    caplog.set_level(logging.DEBUG)
    forge(newest(run), ANOTHER)
    kit, _ = train(run, epochs=3, verify="load")
    assert cli.run(["verify", str(run), "--json"]) == 0
    assert cli.run(["list", str(run)]) == 0
    told = capsys.readouterr()
    written = [path for path in run.rglob("*") if path.is_file()]
    assert {MANIFEST, "savekit.json", "events.jsonl"} <= {path.name for path in written}
    asked = RunDirectory(run, Key(SECRET, "RUN_KEY"))
    shown = f"{asked!r}{vars(asked)}{vars(kit.directory)}{kit.resumed!r}"
    everything = (
        b"".join(path.read_bytes() for path in written) + f"{told}{caplog.text}{shown}".encode()
    )
    encoded = base64.b64encode(SECRET)
    for form in (SECRET, SECRET.hex().encode(), encoded, hashlib.sha256(SECRET).digest()):
        assert form not in everything


def test_the_process_that_loads_what_others_wrote_has_no_key(run, monkeypatch):
    monkeypatch.setenv("TF_COPY", SECRET.decode())
    monkeypatch.setenv("TF_OTHER", "stays")
    with LoaderClient(key=Key(SECRET, "RUN_KEY")) as checker:
        found = checker.verify(newest(run), 0.0)
        assert (found.good, found.depth) == (True, "load")
        environ = Path(f"/proc/{checker.pid}/environ").read_bytes()
    assert b"TF_OTHER=stays\0" in environ
    assert b"RUN_KEY" not in environ
    assert SECRET not in environ


def test_what_is_not_signed_never_reaches_that_process(run):
    forge_weights(newest(run))
    with LoaderClient(key=KEY) as checker:
        (finding,) = checker.verify(newest(run), 0.0).findings
        assert (finding.kind, finding.where) == ("forged", "model.h5")
        assert checker.pid is None


def test_a_lone_file_has_no_signature(tmp_path):
    sk.save_model(model(), tmp_path / "m.h5")
    with pytest.raises(sk.CheckpointError, match="only checkpoints of a run are signed"):
        sk.load_model(tmp_path / "m.h5", key=b"any")


def test_every_byte_before_a_signature_counts():
    text = manifest_json.sign(b'{\n  "a": 1', KEY)
    assert manifest_json.is_signed_with(text, KEY)
    assert not manifest_json.is_signed_with(text, ANOTHER)
    for position in range(len(text)):
        other = bytearray(text)
        other[position] ^= 1
        assert not manifest_json.is_signed_with(bytes(other), KEY)
    assert not manifest_json.is_signed(b"")


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
        state_h5.read(tmp_path / "state.h5")
    run = prepared(tmp_path / "run")
    (run.checkpoints_path / "000000001-p").mkdir()
    (run.checkpoints_path / "000000001-p" / MANIFEST).write_bytes(pickle.dumps(Bomb()))
    ((_, error),) = run.damaged()
    assert "malformed" in error.what
