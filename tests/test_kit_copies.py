"""Construction does nothing to the disk, so kits can be copied, pickled and created again."""

import copy
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
from training_builders import data, events, fit, model, names, plan, policy

import keras_savekit as sk
from keras_savekit.store.run import RunDirectory
from keras_savekit.store.run_writer import RunWriter

ROOT = Path(__file__).parent.parent
PROBE = np.full((2, 3), 0.5, np.float32)


@pytest.fixture(params=sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def from_yaml(request, monkeypatch, tmp_path):
    for name, value in {"HOME": str(tmp_path), "USER": "me", "RUN": "a"}.items():
        monkeypatch.setenv(name, value)
    loaded = sk.load_policy(request.param)
    if loaded.signing is not None:
        monkeypatch.setenv(loaded.signing.key.split()[1], "secret")
    return request.param


WAYS = pytest.mark.parametrize(
    "way", [copy.deepcopy, lambda kit: pickle.loads(pickle.dumps(kit))], ids=["deepcopy", "pickle"]
)


@WAYS
def test_a_kit_of_any_policy_to_copy_can_be_copied(from_yaml, tmp_path, way):
    kit = sk.SaveKit(from_yaml, directory=tmp_path / "run", probe=PROBE)
    copied = way(kit)
    assert copied.policy == kit.policy
    assert copied.directory.path == kit.directory.path
    assert copied.directory is not kit.directory
    assert not (tmp_path / "run").exists()


@WAYS
@pytest.mark.parametrize("saver", [sk.FullModelSaver, sk.WeightsSaver])
def test_a_copied_saver_trains(tmp_path, way, saver):
    copied = way(saver(tmp_path / "run", "every epoch", "last 1", verify="bytes", probe=PROBE))
    assert type(copied) is saver
    fit(model(), copied)
    assert len(names(tmp_path / "run")) == 1
    assert (tmp_path / "run" / "probe.npz").exists()


def test_a_deep_copy_shares_the_data_that_fit_trains_on(tmp_path):
    on = data()
    kit = copy.deepcopy(sk.SaveKit(policy(plan("train_end")), directory=tmp_path, data=on))
    fit(model(), kit, on=on, epochs=1)
    on = data()
    kit = copy.deepcopy(sk.SaveKit(policy(plan("train_end")), directory=tmp_path, data=on))
    fit(model(seed=99), kit, on=on, epochs=2)
    assert kit.resumed.level == "exact"


def test_a_copy_has_no_key_and_reads_it_again(tmp_path, monkeypatch):
    monkeypatch.setenv("RUN_KEY", "a secret of this run")
    signed = policy(plan("train_end"), signing={"key": "env RUN_KEY"})
    pickled = pickle.dumps(sk.SaveKit(signed, directory=tmp_path))
    assert b"a secret" not in pickled
    fit(model(), pickle.loads(pickled), epochs=1)
    assert names(tmp_path) == ["000000006-p"]
    monkeypatch.delenv("RUN_KEY")
    with pytest.raises(sk.SavekitError, match="RUN_KEY, which is not set"):
        pickle.loads(pickled)


def test_a_kit_that_trains_cannot_be_copied_and_one_that_has_trained_can(tmp_path):
    class Copy(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            with pytest.raises(sk.DirectoryError, match="while it trains"):
                copy.deepcopy(kit)

        def get_state(self):
            return {}

        def set_state(self, state):
            pass

    kit = sk.SaveKit(policy(plan("train_end")), directory=tmp_path)
    fit(model(), kit, Copy(), epochs=1)
    kit.set_model(None)
    copied = copy.deepcopy(kit)
    fit(model(), copied, epochs=2)
    assert copied.resumed.moment.epoch == 1


def test_construction_changes_nothing_on_the_disk(tmp_path):
    before = sorted(tmp_path.rglob("*"))
    sk.SaveKit(policy(), directory=tmp_path / "a" / "b", probe=PROBE)
    sk.FullModelSaver(tmp_path, "every epoch")
    assert sorted(tmp_path.rglob("*")) == before


def test_evaluate_and_predict_change_nothing_on_the_disk(tmp_path):
    made, kit = model(), sk.SaveKit(policy(), directory=tmp_path / "run")
    made.evaluate(data(), verbose=0, callbacks=[kit])
    made.predict(np.zeros((2, 3)), verbose=0, callbacks=[kit])
    assert not (tmp_path / "run").exists()


def test_construction_reports_at_once_what_is_wrong(tmp_path, monkeypatch):
    monkeypatch.delenv("RUN_KEY", raising=False)
    signed = policy(signing={"key": "env RUN_KEY"})
    with pytest.raises(sk.PolicyError, match="evry"):
        sk.SaveKit(policy(plan("evry 2 steps")), directory=tmp_path)
    with pytest.raises(sk.SavekitError, match="RUN_KEY, which is not set"):
        sk.SaveKit(signed, directory=tmp_path)
    with pytest.raises(sk.DataError, match="probe"):
        sk.SaveKit(policy(), directory=tmp_path, probe=object())
    with pytest.raises(sk.DataError, match="resumable"):
        sk.SaveKit(policy(), directory=tmp_path, data=[1, 2])


def test_a_kit_is_created_again_on_the_directory_of_one_that_has_trained(tmp_path):
    kits = []
    for epochs in (1, 2):
        on = data()
        kits.append(sk.SaveKit(policy(plan("train_end")), directory=tmp_path, data=on))
        fit(model(), kits[-1], on=on, epochs=epochs)
    assert kits[-1].resumed.level == "exact"
    assert not (tmp_path / ".lock.holder").exists()


def test_two_fits_at_once_in_one_directory_are_refused_when_the_second_starts(tmp_path):
    errors = []

    class Second(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if not errors:
                thread = threading.Thread(target=self.train)
                thread.start()
                thread.join()

        def train(self):
            try:
                fit(model(), sk.SaveKit(policy(), directory=tmp_path), epochs=1)
            except sk.DirectoryError as error:
                errors.append(error)

        def get_state(self):
            return {}

        def set_state(self, state):
            pass

    kit = sk.SaveKit(policy(plan("train_end")), directory=tmp_path)
    fit(model(), kit, Second(), epochs=1)
    (error,) = errors
    assert isinstance(error, sk.DirectoryInUseError)
    assert "this process" in str(error)
    assert names(tmp_path) == ["000000006-p"]


def test_two_kits_of_one_fit_in_one_directory_are_refused_and_nothing_is_locked(tmp_path):
    kits = [sk.SaveKit(policy(), directory=tmp_path / "run") for _ in range(2)]
    with pytest.raises(sk.DirectoryError, match="two savekit callbacks of one fit"):
        fit(model(), kits[0], kits[1])
    assert not (tmp_path / "run").exists()
    fit(model(), kits[0], epochs=1)
    assert names(tmp_path / "run")


LOCKING = """
import sys, pathlib
from keras_savekit.store.prepare import prepare
from keras_savekit.store.run import RunDirectory
from keras_savekit.store.run_writer import RunWriter
run = RunDirectory(pathlib.Path(sys.argv[1]))
prepare(run, ())
writer = RunWriter.acquire(run)
print("locked", flush=True)
sys.stdin.read()
"""


def test_another_process_that_uses_the_directory_is_reported_before_other_callbacks_begin(
    tmp_path,
):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            LOCKING,
            str(tmp_path),
        ],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        assert holder.stdout.readline() == b"locked\n"
        kit = sk.SaveKit(policy(), directory=tmp_path)
        begun = []
        first = keras.callbacks.LambdaCallback(on_train_begin=begun.append)
        with pytest.raises(sk.DirectoryInUseError, match=f"process {holder.pid} on"):
            fit(model(), kit, first)
        assert begun == []
        assert not (tmp_path / "savekit.json").exists()
    finally:
        holder.communicate()


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.filterwarnings("ignore:Fails comes after")
def test_no_lock_is_left_if_another_callback_fails_when_training_begins(tmp_path, before):
    class Fails(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            raise ValueError("not today")

    earlier = set(threading.enumerate())
    kit, fails = sk.SaveKit(policy(), directory=tmp_path), Fails()
    listed = [fails, kit] if before else [kit, fails]
    with pytest.raises(ValueError, match="not today"):
        model().fit(data(), verbose=0, shuffle=False, callbacks=listed)
    with RunWriter.acquire(RunDirectory(tmp_path)):
        pass
    fit(model(), sk.SaveKit(policy(plan("train_end")), directory=tmp_path), epochs=1)
    assert names(tmp_path) == ["000000006-p"]
    started = set(threading.enumerate()) - earlier
    ours = ("savekit-writer", "savekit-verifier", "savekit-loader")
    assert not [thread for thread in started if thread.name in ours]
    assert not events(tmp_path, "interrupted")


def test_no_lock_is_left_if_the_model_is_refused(tmp_path):
    unbuilt = keras.Sequential([keras.layers.Dense(1)])
    unbuilt.compile("sgd", "mse")
    kit = sk.SaveKit(policy(), directory=tmp_path)
    with pytest.raises(sk.ModelError):
        fit(unbuilt, kit)
    with RunWriter.acquire(RunDirectory(tmp_path)):
        pass
