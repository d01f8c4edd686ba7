"""Depth `load`: stock Keras in a child process that may fail in any way."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from formats_models import layers, seal_again, small, train, write
from training_builders import wait_until

from keras_savekit.base.digests import tensor_digest
from keras_savekit.formats import config_digest
from keras_savekit.store.manifest import MANIFEST
from keras_savekit.store.manifest_json import read_manifest
from keras_savekit.verify.loader import stock_load
from keras_savekit.verify.loader.client import LoaderClient
from keras_savekit.verify.loader.process import Budget
from keras_savekit.verify.loader.saved_config import SavedConfig

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checker():
    with LoaderClient() as checker:
        yield checker


@pytest.fixture(scope="module")
def model():
    return train(small())


@pytest.mark.parametrize("form", ["h5", "keras", "weights.h5"])
def test_a_good_checkpoint_is_loaded_and_found_good(checker, model, form, tmp_path):
    directory, _ = write(tmp_path, model, "weights" if "weights" in form else "model", form)
    verification = checker.verify(directory, 5.0)
    assert (verification.depth, verification.when) == ("load", 5.0)
    assert verification.good
    assert verification.note == ""


def test_one_child_loads_all_checkpoints_and_has_ended_after_close(model, tmp_path):
    with LoaderClient() as checker:
        assert checker.pid is None
        first, _ = write(tmp_path, model)
        checker.verify(first, 0.0)
        pid = checker.pid
        second, _ = write(tmp_path, model, "weights")
        checker.verify(second, 0.0)
        assert checker.pid == pid
        os.kill(pid, 0)
    assert checker.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_child_that_was_started_early_answers_and_ignores_ctrl_c(model, tmp_path):
    directory, _ = write(tmp_path, model)
    with LoaderClient() as checker:
        checker.start()
        pid = checker.pid
        assert checker.verify(directory, 0.0).good
        assert checker.pid == pid
        assert os.getpgid(pid) != os.getpgid(0)


@pytest.mark.parametrize("save", ["model", "weights"])
def test_a_flipped_weight_is_found_though_every_digest_fits(checker, model, save, tmp_path):
    """Simulates a writer that writes a wrong tensor and digests what it wrote."""
    directory, manifest = write(tmp_path, model, save)
    name, path = manifest.tensors[0].places[0].split(":")
    with h5py.File(directory / name, "r+") as file:
        value = file[path][()]
        value.view("uint32")[0, 0] ^= 1
        file[path][...] = value
    wrong = tensor_digest(value)
    seal_again(directory, manifest)
    verification = checker.verify(directory, 0.0)
    assert not verification.good
    assert manifest.tensors[0].digest != wrong


def test_a_tensor_in_the_wrong_place_is_found_by_loading(checker, tmp_path):
    """Two kernels of one shape are exchanged; each tensor is there, each byte is as written."""
    net = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Dense(4)])
    net.compile("sgd", "mse")
    directory, manifest = write(tmp_path, train(net))
    first, _, third, *rest = manifest.tensors
    assert first.shape == third.shape == (4, 4)
    # The manifest as a wrong blueprint would have made it: digests at each other's index.
    exchanged = (
        third.__class__(**{**_fields(third), "index": 0}),
        manifest.tensors[1],
        first.__class__(**{**_fields(first), "index": 2}),
        *rest,
    )
    seal_again(directory, manifest, tensors=exchanged)
    found = checker.verify(directory, 0.0)
    assert (found.good, found.depth, found.portable) == (True, "structure", False)
    assert [finding.kind for finding in found.not_portable] == ["load", "load"]
    assert all("differs after loading" in finding.what for finding in found.not_portable)


def test_an_architecture_that_loads_as_another_is_found(checker, model, tmp_path):
    """Simulates a writer that writes another architecture and digests what it wrote."""
    directory, manifest = write(tmp_path, model)
    with h5py.File(directory / "model.h5", "r+") as file:
        text = file.attrs["model_config"].replace('"relu"', '"tanh"')
        file.attrs["model_config"] = text
    seal_again(directory, manifest)
    (finding,) = checker.verify(directory, 0.0).findings
    assert finding.what == "is not the architecture that was saved"
    said = SavedConfig.of(directory, manifest)
    (differs,) = stock_load._compare_architecture(small(), said, manifest)
    assert differs.what == "its architecture differs after loading"
    assert not list(stock_load._compare_architecture(model, said, manifest))
    seal_again(directory, manifest, architecture=config_digest.digest(json.loads(text)))
    assert checker.verify(directory, 0.0).good


def _fields(value):
    return {name: getattr(value, name) for name in value.__slots__}


def test_damage_on_the_disk_never_reaches_the_child(model, tmp_path):
    directory, _ = write(tmp_path, model)
    content = bytearray((directory / "model.h5").read_bytes())
    content[len(content) // 2] ^= 1
    (directory / "model.h5").write_bytes(content)
    with LoaderClient() as checker:
        verification = checker.verify(directory, 0.0)
        assert not verification.good
        assert checker.pid is None


class Unregistered(layers.Layer):
    """Code that stock Keras does not find in another process."""

    __module__ = "a_notebook"

    def call(self, x):
        return 2 * x


def homemade_loss(y, prediction):
    return keras.ops.mean(keras.ops.abs(y - prediction))


@pytest.mark.parametrize(
    ("net", "compiled", "named"),
    [
        (Unregistered, {}, "Unregistered"),
        (layers.Flatten, {"loss": homemade_loss}, "homemade_loss"),
        (lambda: layers.Lambda(lambda x: 3 * x), {}, "lambda"),
    ],
)
def test_the_child_names_the_code_that_is_missing(checker, net, compiled, named, tmp_path):
    built = keras.Sequential([keras.Input((4,)), layers.Dense(3), net()])
    built.compile(**{"optimizer": "sgd", "loss": "mse", **compiled})
    directory, _ = write(tmp_path, train(built))
    verification = checker.verify(directory, 0.0)
    assert verification.good
    assert verification.depth == "structure"
    (finding,) = verification.not_portable
    assert finding.kind == "code"
    assert named in finding.what
    assert "stock Keras alone cannot load it" in finding.what
    assert "import or register that code" in verification.note


def test_a_killed_child_is_reported_and_a_new_one_starts(model, tmp_path):
    directory, _ = write(tmp_path, model)
    with LoaderClient() as checker:
        assert checker.verify(directory, 0.0).depth == "load"
        first = checker.pid
        os.kill(first, signal.SIGKILL)
        outcome = checker.verify(directory, 0.0)
        assert outcome.good
        assert (outcome.depth, outcome.done) == ("structure", False)
        assert outcome.note.startswith("not loaded: the verifying process ended: exit status -9")
        assert checker.pid is None
        assert checker.verify(directory, 0.0).depth == "load"
        assert checker.pid != first


def test_a_child_that_takes_too_long_is_killed_and_reported(model, tmp_path):
    directory, _ = write(tmp_path, model)
    with LoaderClient(Budget(seconds=0.01)) as checker:
        outcome = checker.verify(directory, 0.0)
        assert (outcome.depth, outcome.done) == ("structure", False)
        assert outcome.good
        assert "no answer from the verifying process in 0.01s (limits.verify_time)" in outcome.note
        assert checker.pid is None


def test_a_child_that_uses_too_much_memory_is_killed_and_reported(model, tmp_path):
    directory, _ = write(tmp_path, model)
    with LoaderClient(Budget(memory=100 * 10**6)) as checker:
        outcome = checker.verify(directory, 0.0)
        assert (outcome.depth, outcome.done) == ("structure", False)
        assert outcome.good
        assert checker.pid is None
    said = re.fullmatch(
        r"not loaded: the verifying process used (\d+) bytes of memory, more than the allowed 100MB"
        r" \(limits.verify_memory\)",
        outcome.note,
    )
    assert 10**8 < int(said[1]) < 5 * 10**8


def test_a_child_without_memory_reports_no_finding(model, tmp_path):
    """As under `ulimit -v`, where any allocation may fail."""
    directory, _ = write(tmp_path, model)
    with LoaderClient() as checker:
        assert checker.verify(directory, 0.0).depth == "load"
        size = int(Path(f"/proc/{checker.pid}/statm").read_text().split()[0])
        limit = size * os.sysconf("SC_PAGE_SIZE")
        resource.prlimit(checker.pid, resource.RLIMIT_AS, (limit, limit))
        large = keras.Sequential([keras.Input((3000,)), layers.Dense(20_000)])
        outcome = checker.verify(write(tmp_path, large)[0], 0.0)
    assert outcome.good
    assert (outcome.depth, outcome.done) == ("structure", False)
    assert outcome.note.startswith("not loaded: the verifying process ")


def test_the_child_has_the_lowest_priority_and_is_killed_first(checker, model, tmp_path):
    directory, _ = write(tmp_path, model)
    assert checker.verify(directory, 0.0).depth == "load"
    assert Path(f"/proc/{checker.pid}/oom_score_adj").read_text().strip() == "1000"
    assert os.sched_getscheduler(checker.pid) == os.SCHED_IDLE
    environment = Path(f"/proc/{checker.pid}/environ").read_bytes().split(b"\0")
    assert b"CUDA_VISIBLE_DEVICES=-1" in environment


def test_a_checker_that_another_thread_stops_answers_at_once_with_the_reason(model, tmp_path):
    directory, _ = write(tmp_path, model)
    with LoaderClient() as checker:
        ending = threading.Thread(target=_end_when_it_runs, args=(checker,))
        ending.start()
        outcome = checker.verify(directory, 0.0)
        ending.join()
        assert outcome.note == "not loaded: the training has ended"
        assert not outcome.done
        assert not checker.verify(directory, 0.0).done
        assert checker.pid is None


def _end_when_it_runs(checker):
    wait_until(lambda: checker.pid)
    checker.stop("the training has ended")


@pytest.fixture(scope="module")
def prepared():
    """A child before its first question."""
    code = """
import gc, inspect, json
from keras_savekit.verify.loader import child
child.prepare()
import keras, numpy as np
found = {
    name: kind()((3, 3), dtype="float32")
    for name, kind in inspect.getmembers(keras.initializers, inspect.isclass)
    if "seed" in inspect.signature(kind).parameters
}
drawn = [name for name, value in found.items() if not np.isnan(value).all()]
whole = keras.initializers.RandomUniform(0, 100, seed=1)((3, 3), dtype="int32")
print(json.dumps([gc.isenabled(), gc.get_freeze_count(), len(found), drawn, bool(np.any(whole))]))
"""
    ran = [sys.executable, "-c", code]
    done = subprocess.run(ran, capture_output=True, check=True, timeout=120)
    return json.loads(done.stdout.splitlines()[-1])


def test_the_childs_imports_are_excluded_from_garbage_collection(prepared):
    """Otherwise each collection takes as long as loading a model."""
    collects_in_between, frozen, *_ = prepared
    assert frozen > 100_000
    assert not collects_in_between


def test_the_child_releases_the_memory_of_each_model(tmp_path):
    """It builds a new model for each `.keras` file."""
    net = keras.Sequential([keras.Input((2500,)), layers.Dense(4000)])
    net.compile("sgd", "mse")
    directory, _ = write(tmp_path, net, "model", "keras")
    taken = []
    with LoaderClient() as checker:
        for _ in range(8):
            assert checker.verify(directory, 0.0).depth == "load"
            pages = int(Path(f"/proc/{checker.pid}/statm").read_text().split()[1])
            taken.append(pages * os.sysconf("SC_PAGE_SIZE"))
    assert taken[-1] - taken[2] < 40e6  # the bytes of one


def test_the_child_draws_no_values_that_loading_overwrites(prepared):
    """What loading does not overwrite is NaN, which differs from all saved values."""
    *_, initializers, drawn, whole_numbers = prepared
    assert initializers >= 11
    assert not drawn
    assert whole_numbers  # there is no NaN among them


def test_the_child_ends_when_its_pipe_is_closed():
    theirs, ours = os.pipe()
    ours_in, theirs_out = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-m", "keras_savekit.verify.loader.child", str(theirs), str(theirs_out)],
        pass_fds=(theirs, theirs_out),
    )
    for descriptor in (theirs, theirs_out, ours):
        os.close(descriptor)
    assert child.wait(timeout=60) == 0
    os.close(ours_in)


def test_the_client_does_not_import_keras():
    code = "import sys, keras_savekit.verify.loader.client; sys.exit('keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_checkpoint_is_a_finding_and_not_an_error(checker, model, tmp_path):
    directory, manifest = write(tmp_path, model)
    assert read_manifest(directory) == manifest
    (directory / MANIFEST).unlink()
    assert not checker.verify(directory, 0.0).good
    assert np.isfinite(checker.verify(directory, 1.0).when)


def test_no_process_is_started_for_what_was_stopped():
    with LoaderClient() as stopped:
        stopped.stop("the end")
        stopped.start()
        assert stopped.pid is None
