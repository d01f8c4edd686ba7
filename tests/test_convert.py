"""TensorFlow models become Keras models with the same numbers, gradients and training."""

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
from keras_savekit.convert.tracing import Wanted

FORMATS = ("m.h5", "m.keras", "m.weights.h5")
RATE, EPOCHS = 0.125, 3


@dataclass(frozen=True)
class Case:
    """A kind of source.

    make: the source, files of it below the path.
    call: what the source itself does with a batch, while training or not.
    """

    make: Callable[[Path], Any]
    call: Callable[[Any, Any, bool], Any]
    x: np.ndarray
    wanted: Wanted = field(default_factory=Wanted)


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
        lambda path: sources.Cnn(), _with_training, IMAGES, Wanted(tf.TensorSpec([None, 6, 6, 1]))
    ),
    "recurrence": Case(
        lambda path: sources.Lstm(), _call, sources.batch(4, 7, 3), Wanted((None, None, 3))
    ),
    "transformer": Case(lambda path: sources.Transformer(), _call, TOKENS, Wanted(TOKENS)),
    "tree": Case(
        lambda path: sources.Tree(),
        lambda source, x, training: source(x, is_training=training),
        ROWS,
        Wanted(tf.TensorSpec([None, 4])),
    ),
    "function": Case(lambda path: sources.closure(), _call, ROWS, Wanted((None, 4))),
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
        Wanted(call="serving_default"),
    ),
    "frozen graph": Case(
        lambda path: sources.frozen_graph(path / "frozen.pb"),
        _frozen_with_weights,
        ROWS,
        Wanted(constants="weights"),
    ),
}


def _converted(name: str, path: Path) -> Conversion:
    path.mkdir(exist_ok=True)
    return convert(CASES[name].make(path), CASES[name].wanted)


def _own(name: str, conversion: Conversion) -> Callable[[Any, bool], Any]:
    """What the source itself does, as one `tf.function`.

    TensorFlow fuses operations there, and adds up gradients in another order than
    a tape does, one operation at a time; in both ways it rounds otherwise.
    """
    case, source = CASES[name], conversion.traced.source

    @tf.function
    def run(x: Any, training: bool) -> Any:
        return case.call(source, x, training)

    return run


def _targets(outputs: Any) -> np.ndarray:
    return sources.batch(*outputs.shape)


def _trained_by_tape(name: str, conversion: Conversion) -> list[np.ndarray]:
    """The source's variables after some epochs of one batch."""
    own = _own(name, conversion)
    variables = [each.variable for each in conversion.weights]
    loss_of = keras.losses.MeanSquaredError()
    x = tf.constant(CASES[name].x)
    y = tf.constant(_targets(own(x, False)))

    @tf.function(input_signature=[_any_batch(x), _any_batch(y)])  # as `fit` has it
    def step(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            loss = loss_of(y, own(x, True))
        trained = [each for each in variables if each.trainable]
        for variable, gradient in zip(trained, tape.gradient(loss, trained), strict=True):
            variable.assign_sub(RATE * tf.convert_to_tensor(gradient))

    for _ in range(EPOCHS):
        step(x, y)
    return [each.numpy() for each in variables]


def _any_batch(example: Any) -> tf.TensorSpec:
    return tf.TensorSpec([None, *example.shape[1:]], example.dtype)


def _gradients(function: Callable[[], Any], variables: Any) -> Any:
    @tf.function
    def run() -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(function() ** 2)
        return [tf.convert_to_tensor(each) for each in tape.gradient(loss, variables)]

    return run()


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_those_of_the_source(name: str, tmp_path: Path) -> None:
    conversion = _converted(name, tmp_path)
    model, x = conversion.model, tf.constant(CASES[name].x)
    own = _own(name, conversion)
    pairs = list(zip(conversion.weights, model.layers[-1].graph_weights, strict=True))
    trained = [(each.variable, w.value) for each, w in pairs if each.variable.trainable]
    assert trained
    assert [w.trainable for _, w in pairs] == [each.variable.trainable for each, _ in pairs]
    # Asked for first: a step in training mode moves averages, once on each side.
    expected = _gradients(lambda: own(x, True), [each for each, _ in trained])
    found = _gradients(lambda: model(x, training=True), [each for _, each in trained])
    for one, other in zip(expected, found, strict=True):
        assert np.array_equal(one, other)
    for training in (False, True):
        assert np.array_equal(model(x, training=training), own(x, training))
    for each, weight in pairs:
        assert np.array_equal(each.variable, weight), each.name


@contextmanager
def _unoptimized() -> Iterator[None]:
    """Graphs as they are: what TensorFlow makes of them depends on what surrounds them."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case in every format, and what a process that knows only the files made of them."""
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
        # The model has its own variables: those of the source were trained, not they.
        for file in FORMATS:
            save = sk.save_weights if file.endswith(".weights.h5") else sk.save_model
            save(model, home / file, verify="structure")
        order = {id(each): at for at, each in enumerate(model.layers[-1].graph_weights)}
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
def test_a_file_predicts_and_trains_on_where_nothing_else_is_known(
    name: str, file: str, files: Path
) -> None:
    home = files / str(list(CASES).index(name))
    _, _, predicted, *trained = np.load(home / "own.npz").values()
    theirs, *weights = np.load(home / f"{file}.npz").values()
    assert np.array_equal(predicted, theirs)
    assert len(trained) == len(weights) > 0
    for one, other in zip(trained, weights, strict=True):
        assert np.array_equal(one, other)
