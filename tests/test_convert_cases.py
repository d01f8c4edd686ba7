"""The inputs, outputs and errors of `to_keras`, and what a file may run."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import convert_sources as sources
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.saving import serialization_lib

import keras_savekit as sk
from keras_savekit.convert import trust
from keras_savekit.convert.layer import decode_program
from keras_savekit.convert.safe_mode import in_safe_mode

ROWS = sources.batch(4, 4)
WORDS = tf.TensorSpec([None], tf.string)


@dataclasses.dataclass
class Pair:
    """The input and the output of `Siamese`."""

    left: Any
    right: Any


class Siamese(tf.Module):
    """Takes and returns a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = tf.Variable(sources.batch(4, 2), name="weight")

    def __call__(self, pair):
        return Pair(pair.left @ self.weight, pair.right @ self.weight)


class Scaled(tf.Module):
    """Two arguments, one of them with a default."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = tf.Variable(2.0, name="scale")

    def __call__(self, x, y=None):
        return {"sum": x + y, "scaled": self.scale * x} if y is not None else self.scale * x

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32)])
    def other(self, x):
        return self.scale - x


def _layer(model: keras.Model) -> Any:
    return model.layers[-1]


def test_dataclasses_become_dictionaries():
    specs = Pair(tf.TensorSpec([None, 4]), tf.TensorSpec([None, 4]))
    source = Siamese()
    model = sk.to_keras(source, inputs=specs)
    found = model({"left": ROWS, "right": -ROWS})
    assert set(found) == {"left", "right"}
    assert np.array_equal(found["right"], -found["left"])
    assert np.array_equal(found["left"], source(Pair(ROWS, ROWS)).left)


@pytest.mark.parametrize("inputs", [[(None, 3), (None, 3)], {"x": (None, 3), "y": (None, 3)}])
def test_several_arguments_are_passed_by_position_or_by_name(inputs):
    x = sources.batch(2, 3)
    model = sk.to_keras(Scaled(), inputs=inputs)
    found = model([x, x] if isinstance(inputs, list) else {"x": x, "y": x})
    assert np.array_equal(found["sum"], x + x)
    assert np.array_equal(found["scaled"], 2 * x)


def test_outputs_and_functions_are_selected_by_name():
    x = sources.batch(2, 3)
    model = sk.to_keras(Scaled(), inputs=[(None, 3), (None, 3)], outputs="scaled")
    assert np.array_equal(model([x, x]), 2 * x)
    assert np.array_equal(sk.to_keras(Scaled(), call="other")(x), 2 - x)


def test_an_example_batch_specifies_inputs_of_any_batch_size():
    model = sk.to_keras(Scaled(), inputs=sources.batch(2, 3))
    assert model.input_shape == (None, 3)
    assert model(sources.batch(5, 3)).shape == (5, 3)


def test_open_batch_sizes_and_lengths_stay_open():
    model = sk.to_keras(sources.Lstm(), inputs=(None, None, 3))
    assert model.output_shape == (None, 2)
    for length in (3, 5):
        assert model(sources.batch(2, length, 3)).shape == (2, 2)


def test_unique_names_are_kept_and_other_weights_are_named_by_path():
    named = sk.to_keras(sources.Cnn(), inputs=(None, 6, 6, 1), name="m")
    assert "m/cnn/gamma" in {weight.path for weight in named.weights}
    alike = sk.to_keras(sources.Transformer(), inputs=tf.TensorSpec([None, 5], tf.int32), name="m")
    assert "m/blocks/1/hidden/up/w" in {weight.path for weight in alike.weights}


def test_shared_variables_are_one_weight():
    model = sk.to_keras(sources.Transformer(), inputs=tf.TensorSpec([None, 5], tf.int32))
    assert sum(weight.path.endswith("/embedding") for weight in model.weights) == 1


def test_weights_are_counted_and_can_be_frozen(capsys):
    model = sk.to_keras(sources.closure(), inputs=(None, 4))
    for trainable, counted in ((False, 0), (True, 10), (False, 0)):
        _layer(model).trainable = trainable
        model.summary()
        assert f"Trainable params: {counted} " in capsys.readouterr().out
        assert len(model.trainable_weights) == (2 if trainable else 0)
        assert len(model.non_trainable_weights) == (1 if trainable else 3)


@pytest.mark.parametrize("name", ["m.h5", "m.keras"])
def test_a_frozen_model_trains_nothing_until_it_is_made_trainable(name, tmp_path):
    model = sk.to_keras(sources.closure(), inputs=(None, 4), trainable=False)
    model.compile("adam", "mean_squared_error")
    before = model.get_weights()
    with pytest.warns(UserWarning, match="does not have any trainable weights"):
        model.fit(ROWS, ROWS[:, :2], verbose=0)
    assert all(map(np.array_equal, before, model.get_weights()))
    sk.save_model(model, tmp_path / name, verify="structure")
    again = keras.models.load_model(tmp_path / name)
    assert again.trainable_weights == []
    _layer(again).trainable = True
    assert {weight.name for weight in again.trainable_weights} == {"weight", "bias"}
    assert np.array_equal(again(ROWS), model(ROWS))


@pytest.mark.parametrize("name", ["m.h5", "m.keras"])
def test_weights_that_were_frozen_one_by_one_stay_frozen(name, tmp_path):
    model = sk.to_keras(sources.Transformer(), inputs=tf.TensorSpec([None, 5], tf.int32))
    for weight in model.weights:
        weight.trainable = "blocks/0" not in weight.path  # the other block has the same shapes
    sk.save_model(model, tmp_path / name, verify="structure")
    again = keras.models.load_model(tmp_path / name)
    assert [w.trainable for w in again.weights] == [w.trainable for w in model.weights]
    assert all(map(np.array_equal, again.get_weights(), model.get_weights()))


def test_the_model_and_its_source_train_independently():
    source = sources.Tree()
    before = source(ROWS, is_training=False)
    model = sk.to_keras(source, inputs=(None, 4))
    model.compile("sgd", "mean_squared_error")
    model.fit(ROWS, ROWS[:, :2], epochs=2, verbose=0)
    assert np.array_equal(before, source(ROWS, is_training=False))
    assert int(next(w for w in model.weights if w.path.endswith("calls")).numpy()) == 2
    assert int(source.calls.numpy()) == 0


def test_the_model_works_after_its_source_is_deleted():
    source = sources.Tree()
    expected = tf.function(source)(ROWS, False)
    reference = weakref.ref(source)
    model = sk.to_keras(source, inputs=(None, 4))
    del source
    gc.collect()
    assert reference() is None
    assert np.array_equal(model(ROWS), expected)


class Words(tf.Module):
    """A table of constant content beside a weight."""

    def __init__(self, table: Any) -> None:
        super().__init__()
        self.table = table
        self.vectors = tf.Variable(sources.batch(3, 2), name="vectors")

    def __call__(self, words):
        return tf.gather(self.vectors, self.table.lookup(words))


def _constant_table() -> Any:
    keys = tf.lookup.KeyValueTensorInitializer(tf.constant(["a", "b"]), tf.constant([1, 2]))
    return tf.lookup.StaticHashTable(keys, 0)


def test_tables_of_constant_content_are_saved_in_the_file(tmp_path):
    source = Words(_constant_table())
    model = sk.to_keras(source, inputs=tf.TensorSpec([None, 2], tf.string))
    words = tf.constant([["a", "b"], ["b", "z"]])
    sk.save_model(model, tmp_path / "m.h5")
    assert np.array_equal(sk.load_model(tmp_path / "m.h5")(words), source(words))


def test_a_table_from_a_file_is_saved_as_an_asset_if_its_operation_is_allowed(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("a\nb\n")
    kinds = tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int32, tf.lookup.TextFileIndex
    keys = tf.lookup.TextFileInitializer(
        str(path), kinds[0], kinds[1], tf.int64, kinds[3].LINE_NUMBER
    )
    source = Words(tf.lookup.StaticHashTable(keys, 0))
    spec = tf.TensorSpec([None], tf.string)
    with pytest.raises(sk.ConversionError, match=r'allow_ops\("InitializeTableFromTextFileV2"\)'):
        sk.to_keras(source, inputs=spec)
    words = tf.constant(["a", "b"])
    with sk.allow_ops("InitializeTableFromTextFileV2"):
        model = sk.to_keras(source, inputs=spec)
        path.unlink()
        assert np.array_equal(keras.models.clone_model(model)(words), np.zeros((2, 2)))
    assert np.array_equal(model(words), source(words))


# What cannot be converted.


def _with_python(x: Any) -> Any:
    return tf.py_function(lambda value: value, [x], tf.float32)


def _writes(x: Any) -> Any:
    tf.io.write_file("/nowhere", "text")
    return x


class AddsLookup(tf.Module):
    """Adds a value of its table to the input."""

    def __init__(self, table: Any) -> None:
        super().__init__()
        self.table = table

    def __call__(self, x):
        return x + tf.cast(self.table.lookup(tf.constant("a")), tf.float32)


def _mutable_table() -> Any:
    return tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, 0)


OPEN = tf.Variable([1.0], shape=[None], name="open")
TEXT = tf.Variable("text", name="text")
REFUSED = {
    "a model of Keras": (keras.Sequential(name="s"), {}, "'s' is a Keras model already"),
    "no inputs": (Scaled(), {}, "the inputs are unknown"),
    "unknown function": (Scaled(), {"call": "missing"}, "no function 'missing': it has other"),
    "invalid inputs": (Scaled(), {"inputs": 3}, "cannot read the inputs from 3"),
    "ragged": (Scaled(), {"inputs": tf.RaggedTensorSpec([None, None])}, "input is a RaggedTensor"),
    "no rank": (Scaled(), {"inputs": tf.TensorSpec(None, name="x")}, "'x' has no known rank"),
    "no batch": (Scaled(), {"inputs": tf.TensorSpec([], name="x")}, "'x' has no batch axis"),
    "unknown output": (
        Scaled(),
        {"inputs": [(None, 3), (None, 3)], "outputs": "z"},
        r"no output \['z'\]",
    ),
    "python": (_with_python, {"inputs": (None, 3)}, r"runs Python functions.*EagerPyFunc"),
    "files": (_writes, {"inputs": (None, 3)}, r"WriteFile.*\n.*allow_ops\(\"WriteFile\"\)"),
    "mutable table": (
        AddsLookup(_mutable_table()),
        {"inputs": (None, 3)},
        r"content would be lost.*\[table\]",
    ),
    "None": (lambda x: (x, None), {"inputs": (None, 3)}, r"an output is None.*\[outputs\.1\]"),
    "nothing": (lambda x: None, {"inputs": (None, 3)}, r"an output is None.*\[outputs\]"),
    "ragged output": (
        lambda x: {"y": tf.RaggedTensor.from_tensor(x)},
        {"inputs": (None, 3)},
        r"an output is a RaggedTensor.*\[outputs\.y\]",
    ),
    "rank of an output": (
        lambda x: {"y": tf.raw_ops.PlaceholderWithDefault(input=x, shape=None)},
        {"inputs": (None, 3)},
        r"an output has no known rank \[outputs\.y\]\n.*outputs={'y': \(None, 2\)}",
    ),
    "slash": (Scaled(), {"inputs": (None, 3), "name": "a/b"}, "cannot be named 'a/b'"),
    "open shape": (lambda x: x + OPEN, {"inputs": (None, 3)}, "'open' has no fixed shape"),
    "text": (
        lambda x: x + tf.strings.to_number(TEXT),
        {"inputs": (None, 3)},
        "'text' has the dtype string",
    ),
    "fails": (lambda x: x @ x, {"inputs": (2, 3)}, "cannot trace it: ValueError"),
    "missing": ("nowhere", {}, r"does not exist \[nowhere"),
    "no factory": (Scaled(), {"embed": False}, "takes a function that makes the source"),
    "constants": (Scaled(), {"constants": "drop"}, 'must be "keep" or "weights", got \'drop\''),
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_error_names_what_cannot_be_converted(name):
    source, options, message = REFUSED[name]
    with pytest.raises(sk.ConversionError, match=message):
        sk.to_keras(source, **options)


def test_a_conversion_within_a_graph_is_refused():
    with tf.Graph().as_default(), pytest.raises(sk.ConversionError, match="outside of graphs"):
        sk.to_keras(Scaled(), inputs=(None, 3))


def test_a_resource_without_an_attribute_is_named_by_its_use(monkeypatch):
    monkeypatch.setattr(sources, "HIDDEN", _constant_table(), raising=False)  # in another module

    def look_up(words):
        return sources.HIDDEN.lookup(words)

    with pytest.raises(sk.ConversionError, match=r"none of its attributes lead to.*LookupTable"):
        sk.to_keras(look_up, inputs=WORDS)


# Frozen graphs.


def test_a_frozen_graph_keeps_its_constants_unless_they_are_requested_as_weights(tmp_path):
    path = sources.frozen_graph(tmp_path / "frozen.pb")
    kept = sk.to_keras(path)
    assert kept.weights == []
    trained = sk.to_keras(path, constants="weights")
    assert {weight.path for weight in trained.weights} == {"frozen/kernel", "frozen/head"}
    assert np.array_equal(kept(ROWS), trained(ROWS))
    hidden = sk.to_keras(path, inputs="x:0", outputs="hidden:0")
    assert hidden.output_shape == (None, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": "z"}, r"no node 'z'.*\n.*placeholders are x"),
        ({"outputs": ["y", "z"]}, "no node 'z'"),
    ],
)
def test_nodes_that_a_frozen_graph_lacks_are_named(options, message, tmp_path):
    path = sources.frozen_graph(tmp_path / "frozen.pb")
    with pytest.raises(sk.ConversionError, match=message):
        sk.to_keras(path, **options)


@pytest.mark.parametrize("content", [b"", b"\xff\xff not a graph"])
def test_a_file_without_a_graph_is_refused(content, tmp_path):
    path = tmp_path / "m.pb"
    path.write_bytes(content)
    with pytest.raises(sk.ConversionError, match=r"m\.pb"):
        sk.to_keras(path)


def test_a_missing_signature_of_a_saved_model_is_named_with_the_existing_ones(tmp_path):
    path = sources.tf1_saved_model(tmp_path / "tf1")
    with pytest.raises(sk.ConversionError, match=r"'train'.*\n.*it has serving_default"):
        sk.to_keras(path, call="train")


# Code from registered functions.


@keras.saving.register_keras_serializable("tests")
def make_scaled() -> tf.Module:
    """A factory that is registered with Keras."""
    return Scaled()


def test_without_embedding_the_file_names_the_function_that_makes_the_source(tmp_path):
    model = sk.to_keras(make_scaled, inputs=[(None, 3), (None, 3)], outputs="sum", embed=False)
    assert _layer(model).get_config()["program"] is None
    sk.save_model(model, tmp_path / "m.h5", verify="structure")
    x = sources.batch(2, 3)
    assert np.array_equal(sk.load_model(tmp_path / "m.h5")([x, x]), x + x)


# What a file may run.


def _in_another_process(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


LOAD = """
import sys, json
import keras, keras_savekit as sk
errors = []
for load in (keras.models.load_model, sk.load_model):
    for path in sys.argv[1:]:
        try:
            load(path)
        except Exception as error:
            errors.append([type(error).__name__, str(error)])
for path in sys.argv[1:]:
    sk.load_model(path, safe_mode=False)
print(json.dumps(errors))
"""


@pytest.mark.slow
def test_graphs_of_files_are_code_and_refused_until_they_are_trusted(tmp_path):
    model = sk.to_keras(sources.closure(), inputs=(None, 4), name="affine")
    for name in ("m.h5", "m.keras"):
        sk.save_model(model, tmp_path / name, verify="structure")
    errors = json.loads(_in_another_process(LOAD, tmp_path / "m.h5", tmp_path / "m.keras"))
    assert len(errors) == 4
    for kind, message in errors:
        assert kind == "ConversionError"
        assert "layer affine" in message
        assert "safe_mode=False" in message


@pytest.mark.slow
def test_the_verifying_process_runs_the_graphs_that_this_process_made(tmp_path):
    model = sk.to_keras(sources.Tree(), inputs=(None, 4))
    model.compile("adam", "mean_squared_error")
    kit = sk.FullModelSaver(tmp_path / "run", when="train_end", verify="load")
    model.fit(ROWS, ROWS[:, :2], epochs=2, verbose=0, callbacks=[kit])
    found = json.loads((tmp_path / "run/latest/verification.json").read_text())
    assert (found["depth"], found["findings"]) == ("load", [])
    again = sk.load_model(tmp_path / "run/latest")
    assert np.array_equal(again(ROWS), model(ROWS))
    assert len(again.optimizer.variables) == len(model.optimizer.variables)


def test_a_changed_graph_is_not_trusted():
    model = sk.to_keras(sources.closure(), inputs=(None, 4))
    config = _layer(model).get_config()
    assert trust.is_trusted(decode_program(config["program"]).digest)
    other = {**config, "program": config["program"][:-8] + "AAAAAAA="}
    with pytest.raises(sk.ConversionError, match="safe_mode=False"):
        type(_layer(model)).from_config(other)


@pytest.mark.parametrize("program", ["not base64!", "AAAA", None])
def test_a_damaged_graph_is_reported_as_damaged(program):
    model = sk.to_keras(sources.closure(), inputs=(None, 4))
    with pytest.raises(sk.ConversionError, match="damaged"):
        type(_layer(model))(program)


@pytest.mark.parametrize("safe", [True, False, None])
def test_the_safe_mode_of_keras_is_read_from_keras(safe):
    assert in_safe_mode()
    with serialization_lib.SafeModeScope(safe):
        assert in_safe_mode() is (safe is not False)


# Training.


class Noisy(tf.Module):
    """Draws random numbers inside TensorFlow's kernels, or from its own generator."""

    def __init__(self, *, own: bool) -> None:
        super().__init__()
        self.weight = tf.Variable(sources.batch(4, 2), name="weight")
        self.generator = tf.random.Generator.from_seed(3) if own else None

    def __call__(self, x, training=False):
        if training and self.generator is not None:
            x = x + self.generator.normal([4])
        elif training:
            x = x + tf.random.normal([4], seed=1)
        return x @ self.weight


def _train(source: tf.Module, directory: Any, epochs: int) -> tuple[list[np.ndarray], str]:
    model = sk.to_keras(source, inputs=(None, 4))
    model.compile("adam", "mean_squared_error")
    data = sk.resumable(ROWS, ROWS[:, :2], batch_size=2, seed=1)
    kit = sk.FullModelSaver(directory, when="every epoch", verify="bytes", data=data)
    model.fit(data, epochs=epochs, shuffle=False, verbose=0, callbacks=[kit])
    return [weight.numpy() for weight in model.weights], str(kit.resumed)


def test_a_training_with_a_generator_in_the_source_is_resumed_exactly(tmp_path):
    whole, _ = _train(Noisy(own=True), tmp_path / "whole", 3)
    _train(Noisy(own=True), tmp_path / "parts", 1)
    resumed, report = _train(Noisy(own=True), tmp_path / "parts", 3)
    assert "(exact)" in report
    assert all(map(np.array_equal, whole, resumed))


def test_a_resume_reports_random_numbers_drawn_inside_kernels(tmp_path):
    _train(Noisy(own=False), tmp_path, 1)
    _, report = _train(Noisy(own=False), tmp_path, 2)
    assert "(position)" in report
    assert "noisy draws random numbers inside TensorFlow (RandomStandardNormal)" in report


TWO_DEVICES = """
import sys
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
sys.path.insert(0, sys.argv[1])
import convert_sources as sources
import keras_savekit as sk
source, x = sources.closure(), sources.batch(8, 4)
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    model = sk.to_keras(source, inputs=(None, 4))
    model.compile("sgd", "mean_squared_error")
    try:
        sk.to_keras(sources.Tree(), inputs=(None, 4))
    except sk.ConversionError as error:
        print(error)
model.fit(x, x[:, :2], verbose=0)
one = sk.to_keras(source, inputs=(None, 4))
one.compile("sgd", "mean_squared_error")
one.fit(x, x[:, :2], verbose=0)
pairs = zip(one.weights, model.weights)
alike = all(np.allclose(a.numpy(), b.numpy(), atol=1e-6) for a, b in pairs)
assert alike or keras.__version__ == "3.3.3"  # replicas of its own layers differ in that version
sk.save_model(model, sys.argv[2], verify="structure")
again = sk.load_model(sys.argv[2])
assert all(np.array_equal(a.numpy(), b.numpy()) for a, b in zip(again.weights, model.weights))
"""


@pytest.mark.slow
def test_two_replicas_train_a_model_whose_source_was_made_on_one_device(tmp_path):
    output = _in_another_process(TWO_DEVICES, Path(__file__).parent, tmp_path / "m.h5")
    assert "is on several devices" in output


@pytest.mark.slow
def test_the_example_runs_and_is_short(tmp_path):
    example = Path(__file__).parent.parent / "examples/from_tf_module.py"
    environment = {**os.environ, "PYTHONPATH": str(example.parent.parent)}
    run = [sys.executable, str(example)]
    subprocess.run(run, cwd=tmp_path, env=environment, check=True, timeout=240)
    assert len(example.read_text().splitlines()) < 50


# The command line.


@pytest.mark.slow
@pytest.mark.parametrize("name", ["m.h5", "m.keras", "m.weights.h5"])
def test_the_command_line_converts_and_compares(name, tmp_path):
    source = sources.keras3_export(tmp_path / "export")
    run = [sys.executable, "-m", "keras_savekit", "convert", source, tmp_path / name]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "bit for bit" in done.stdout
    assert "57 numbers" in done.stdout
    assert sk.load_model(tmp_path / name, safe_mode=False).count_params() == 57
    assert not list(tmp_path.glob(".scratch*"))


@pytest.mark.slow
def test_the_command_line_reports_an_error_without_a_traceback(tmp_path):
    run = [sys.executable, "-m", "keras_savekit", "convert", "nowhere", tmp_path / "m.h5"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "does not exist [nowhere]" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "m.h5").exists()
