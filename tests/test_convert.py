"""Converted models have the outputs, gradients and training of their sources."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import convert_sources as sources
import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_savekit as sk
from keras_savekit.convert.conversion import Conversion, convert
from keras_savekit.convert.tracing import SourceOptions

FORMATS = ("m.h5", "m.keras", "m.weights.h5")
RATE, EPOCHS = 0.125, 3


@dataclass(frozen=True)
class Case:
    """A kind of source.

    make: makes the source, with its files under the path.
    call: calls the source itself with a batch, in training mode or not.
    """

    make: Callable[[Path], Any]
    call: Callable[[Any, Any, bool], Any]
    x: np.ndarray
    options: SourceOptions = field(default_factory=SourceOptions)


def _call(source: Any, x: Any, training: bool) -> Any:
    return source(x)


def _with_training(source: Any, x: Any, training: bool) -> Any:
    return source(x, training=training)


def _signature(loaded: Any, x: Any, training: bool) -> Any:
    outputs = loaded.signatures["serving_default"](tf.convert_to_tensor(x))
    return next(iter(outputs.values()))


def _frozen_with_weights(holder: Any, x: Any, training: bool) -> Any:
    hidden = tf.nn.relu(x @ holder.weights["kernel"])
    return hidden @ holder.weights["head"]


def _saved_module(path: Path) -> Path:
    module = sources.Cnn()
    spec = tf.TensorSpec([None, 6, 6, 1])
    for training in (False, True):
        module.__call__.get_concrete_function(spec, training=training)
    tf.saved_model.save(module, str(path / "cnn"))
    return path / "cnn"


IMAGES, ROWS = sources.batch(4, 6, 6, 1), sources.batch(4, 4)
TOKENS = np.random.default_rng(1).integers(0, 11, (4, 5)).astype("int32")
CASES = {
    "module": Case(
        lambda path: sources.Cnn(),
        _with_training,
        IMAGES,
        SourceOptions(tf.TensorSpec([None, 6, 6, 1])),
    ),
    "recurrence": Case(
        lambda path: sources.Lstm(), _call, sources.batch(4, 7, 3), SourceOptions((None, None, 3))
    ),
    "transformer": Case(lambda path: sources.Transformer(), _call, TOKENS, SourceOptions(TOKENS)),
    "tree": Case(
        lambda path: sources.Tree(),
        lambda source, x, training: source(x, is_training=training),
        ROWS,
        SourceOptions(tf.TensorSpec([None, 4])),
    ),
    "function": Case(lambda path: sources.closure(), _call, ROWS, SourceOptions((None, 4))),
    "concrete function": Case(lambda path: sources.concrete(), _call, ROWS),
    "SavedModel of a module": Case(_saved_module, _with_training, IMAGES),
    "SavedModel of TF 1": Case(lambda p: sources.tf1_saved_model(p / "tf1"), _signature, ROWS),
    "SavedModel of Keras 2": Case(
        lambda path: sources.keras2_saved_model(path / "keras2"), _with_training, ROWS
    ),
    "export of Keras 3": Case(
        lambda path: sources.keras3_export(path / "export"),
        _signature,
        ROWS,
        SourceOptions(call="serving_default"),
    ),
    "frozen graph": Case(
        lambda path: sources.frozen_graph(path / "frozen.pb"),
        _frozen_with_weights,
        ROWS,
        SourceOptions(constants="weights"),
    ),
}


def _converted(name: str, path: Path) -> Conversion:
    path.mkdir(exist_ok=True)
    return convert(CASES[name].make(path), CASES[name].options)


def _own(name: str, conversion: Conversion) -> Callable[[Any, bool], Any]:
    """Return a `tf.function` that calls the source itself.

    In a `tf.function` TensorFlow fuses operations and adds gradients in another
    order than in eager execution, so the results are rounded differently.
    """
    case, source = CASES[name], conversion.traced.source

    @tf.function
    def run(x: Any, training: bool) -> Any:
        return case.call(source, x, training)

    return run


def _targets(outputs: Any) -> np.ndarray:
    return sources.batch(*outputs.shape)


def _trained_by_tape(name: str, conversion: Conversion) -> list[np.ndarray]:
    """Return the source's variables after some epochs of one batch."""
    own = _own(name, conversion)
    variables = [weight.variable for weight in conversion.weights]
    loss_of = keras.losses.MeanSquaredError()
    x = tf.constant(CASES[name].x)
    y = tf.constant(_targets(own(x, False)))

    @tf.function(input_signature=[_any_batch(x), _any_batch(y)])  # as in `fit`
    def step(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            loss = loss_of(y, own(x, True))
        trained = [variable for variable in variables if variable.trainable]
        for variable, gradient in zip(trained, tape.gradient(loss, trained), strict=True):
            variable.assign_sub(RATE * tf.convert_to_tensor(gradient))

    for _ in range(EPOCHS):
        step(x, y)
    return [variable.numpy() for variable in variables]


def _any_batch(example: Any) -> tf.TensorSpec:
    return tf.TensorSpec([None, *example.shape[1:]], example.dtype)


def _gradients(function: Callable[[], Any], variables: Any) -> Any:
    @tf.function
    def run() -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(function() ** 2)
        return [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, variables)]

    return run()


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_those_of_the_source(name: str, tmp_path: Path) -> None:
    conversion = _converted(name, tmp_path)
    model, x = conversion.model, tf.constant(CASES[name].x)
    own = _own(name, conversion)
    pairs = list(zip(conversion.weights, model.layers[-1].graph_weights, strict=True))
    trained = [(theirs.variable, w.value) for theirs, w in pairs if theirs.variable.trainable]
    assert trained
    assert [w.trainable for _, w in pairs] == [theirs.variable.trainable for theirs, _ in pairs]
    # First: a call in training mode updates moving averages, once on each side.
    expected = _gradients(lambda: own(x, True), [theirs for theirs, _ in trained])
    found = _gradients(lambda: model(x, training=True), [ours for _, ours in trained])
    for one, other in zip(expected, found, strict=True):
        assert np.array_equal(one, other)
    for training in (False, True):
        assert np.array_equal(model(x, training=training), own(x, training))
    for theirs, weight in pairs:
        assert np.array_equal(theirs.variable, weight), theirs.name


@contextmanager
def _unoptimized() -> Iterator[None]:
    """Turn graph optimization off: its rounding depends on the surrounding graph."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save every case in every format, and let a process load and train from the files alone."""
    folder = tmp_path_factory.mktemp("converted")
    for number, name in enumerate(CASES):
        home = folder / str(number)
        conversion = _converted(name, home)
        model = conversion.model
        x = CASES[name].x
        with _unoptimized():
            predicted = np.asarray(_own(name, conversion)(tf.constant(x), False))
            trained = _trained_by_tape(name, conversion)
        model.compile(keras.optimizers.SGD(RATE), "mean_squared_error")
        # The model has its own variables: only those of the source were trained.
        for file in FORMATS:
            save = sk.save_weights if file.endswith(".weights.h5") else sk.save_model
            save(model, home / file, verify="structure")
        order = {id(weight): at for at, weight in enumerate(model.layers[-1].graph_weights)}
        trained = [trained[order[id(weight)]] for weight in model.weights]
        np.savez(home / "own.npz", x, _targets(predicted), predicted, *trained)
    del conversion, model
    gc.collect()
    script = Path(__file__).with_name("load_converted.py")
    subprocess.run(
        [sys.executable, script, str(folder), str(EPOCHS), *FORMATS], check=True, timeout=240
    )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("file", FORMATS)
@pytest.mark.parametrize("name", CASES)
def test_a_file_predicts_and_trains_in_a_process_that_has_only_the_file(
    name: str, file: str, files: Path
) -> None:
    home = files / str(list(CASES).index(name))
    _, _, predicted, *trained = np.load(home / "own.npz").values()
    theirs, *weights = np.load(home / f"{file}.npz").values()
    assert np.array_equal(predicted, theirs)
    assert len(trained) == len(weights) > 0
    for one, other in zip(trained, weights, strict=True):
        assert np.array_equal(one, other)
