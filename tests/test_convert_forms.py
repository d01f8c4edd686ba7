"""Functions in every form that TensorFlow users write and save are converted."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import convert_sources as sources
import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_savekit as sk

ROWS = sources.batch(4, 4)
SPEC = tf.TensorSpec([None, 4], tf.float32)
BOTH = {"x": ROWS, "y": -ROWS}


class Affine(tf.Module):
    """A weight, and functions of every form that use it."""

    def __init__(self) -> None:
        super().__init__(name="affine")
        self.w = tf.Variable(sources.batch(4, 4), name="w")
        self.table = tf.constant([1.0, 2.0])

    @tf.function
    def plain(self, x):
        return x @ self.w

    @tf.function
    def constant(self, x, mode, times=3, training=False):
        return x @ self.w * times * (2.0 if mode == "twice" else 1.0) * (-1.0 if training else 1.0)

    @tf.function
    def sonnet(self, x, is_training):
        return x @ self.w * (-1.0 if is_training else 1.0)

    @tf.function(input_signature=[SPEC, tf.TensorSpec([], tf.bool)])
    def flagged(self, x, training):
        return x @ self.w * (-1.0 if training else 1.0)

    @tf.function
    def by_name(self, x, *, y):
        return x @ self.w + y

    @tf.function
    def listed(self, pair, training=False):
        return pair[0] @ self.w + pair[1] * (-1.0 if training else 1.0)

    @tf.function
    def variadic(self, *pair):
        return pair[0] @ self.w + pair[1]

    @tf.function(input_signature=[{"x": SPEC, "y": SPEC}])
    def mapped(self, given):
        return {"sum": given["x"] + given["y"], "w": given["x"] @ self.w}


PAIR = [SPEC, SPEC]
# By function: the arguments of its traces, the inputs, and the arguments made from them.
FORMS = {
    "plain": ([(SPEC,)], ROWS, lambda x: (x,)),
    "constant": (
        [(SPEC, "twice", 5, False), (SPEC, "twice", 5, True)],
        ROWS,
        lambda x: (x, "twice", 5),
    ),
    "sonnet": ([(SPEC, False), (SPEC, True)], ROWS, lambda x: (x, False)),
    "flagged": ([()], ROWS, lambda x: (x, tf.constant(value=False))),
    "listed": ([(PAIR, False), (PAIR, True)], [ROWS, -ROWS], lambda x: (x,)),
    "variadic": ([PAIR], (ROWS, -ROWS), lambda x: x),
    "mapped": ([()], BOTH, lambda x: (x,)),
}
MODES = ("constant", "sonnet", "flagged", "listed")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Affine, Path]:
    """Return a module with all its functions traced, and the path of its SavedModel."""
    path = tmp_path_factory.mktemp("forms") / "affine"
    module = Affine()
    for name, (traces, _, _) in FORMS.items():
        for arguments in traces:
            getattr(module, name).get_concrete_function(*arguments)
    module.by_name.get_concrete_function(SPEC, y=SPEC)
    tf.saved_model.save(module, str(path))
    return module, path


@pytest.mark.parametrize("name", FORMS)
def test_functions_of_a_saved_model_are_called_as_they_were_traced(name, saved):
    module, path = saved
    _, given, arguments = FORMS[name]
    model = sk.to_keras(path, call=name)
    expected = tf.nest.flatten(getattr(module, name)(*arguments(given)))
    for ours, theirs in zip(keras.tree.flatten(model(given)), expected, strict=True):
        assert np.array_equal(ours, theirs)
    trains = keras.tree.flatten(model(given, training=True))[0]
    assert np.array_equal(trains, expected[0]) == (name not in MODES)


def test_arguments_by_name_only_are_found_in_a_saved_model_too(saved):
    module, path = saved
    expected = module.by_name(ROWS, y=-ROWS)
    assert np.array_equal(sk.to_keras(path, call="by_name")(BOTH), expected)
    own = sk.to_keras(module, call="by_name", inputs={"x": SPEC, "y": SPEC})
    assert np.array_equal(own(BOTH), expected)


def test_a_function_with_keyword_arguments_gets_the_inputs_by_name():
    model = sk.to_keras(lambda **given: given["x"] + 2 * given["y"], inputs={"x": SPEC, "y": SPEC})
    assert np.array_equal(model(BOTH), ROWS - 2 * ROWS)


@pytest.mark.parametrize("times", [3, 7])
def test_some_arguments_may_be_fixed_with_partial(times):
    module = Affine()
    source = functools.partial(module.constant, mode="once", times=times)
    model = sk.to_keras(source, inputs=SPEC)
    expected = module.constant(ROWS, "once", times=times)
    assert np.array_equal(model(ROWS), expected)
    assert np.array_equal(model(ROWS, training=True), -expected)


@dataclass
class Layer:
    """A part of `Stack`; also not a module."""

    w: tf.Variable

    def __call__(self, x):
        return x @ self.w


class Stack:
    """A model that is not a `tf.Module`, with a table of constants."""

    __slots__ = ("layers", "table")

    def __init__(self) -> None:
        self.layers = [Layer(tf.Variable(sources.batch(4, 4))) for _ in range(2)]
        keys = tf.lookup.KeyValueTensorInitializer(tf.constant([0, 1]), tf.constant([1.0, 2.0]))
        self.table = tf.lookup.StaticHashTable(keys, 0.0)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x * self.table.lookup(tf.constant(1))

    __call__ = forward


def test_variables_and_tables_of_objects_that_are_not_modules_are_found():
    source = Stack()
    expected = tf.function(source.forward)(ROWS)
    for given in (source, source.forward):
        model = sk.to_keras(given, inputs=SPEC, name="m")
        assert [weight.path for weight in model.weights] == ["m/layers/0/w", "m/layers/1/w"]
        assert np.array_equal(model(ROWS), expected)


def _apply(parameters, x):
    return x @ parameters["dense"]["w"]


def test_variables_among_the_arguments_are_named_after_the_arguments():
    parameters = {"dense": {"w": tf.Variable(sources.batch(4, 2))}}
    sources_of_it = (
        functools.partial(_apply, parameters),
        functools.partial(tf.function(_apply), parameters),
        lambda x, parameters=parameters: _apply(parameters, x),
    )
    for source in sources_of_it:
        model = sk.to_keras(source, inputs=SPEC, name="m")
        assert [weight.path for weight in model.weights] == ["m/parameters/dense/w"]


def test_variables_that_the_first_call_makes_are_found():
    class Lazy(tf.Module):
        w = None

        @tf.function
        def __call__(self, x):
            if self.w is None:
                self.w = tf.Variable(tf.ones([4, 2]), name="w")
            return x @ self.w

    model = sk.to_keras(Lazy(), inputs=SPEC)
    assert np.array_equal(model(ROWS), tf.matmul(ROWS, tf.ones([4, 2])))
    assert model.count_params() == 8


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "int8", "bool", "uint64"])
def test_weights_keep_their_dtype_in_every_format(dtype, tmp_path):
    kept = tf.Variable(tf.cast([[0.5, 3.0]] * 4, dtype), trainable=False, name="kept")
    scale = tf.Variable(2.0, name="scale")
    model = sk.to_keras(lambda x: x @ tf.cast(kept, tf.float32) * scale, inputs=SPEC)
    expected = model(ROWS)
    for name in ("m.h5", "m.keras"):
        sk.save_model(model, tmp_path / name, verify="structure")
        again = keras.models.load_model(tmp_path / name)
        assert [weight.dtype for weight in again.weights] == ["float32", dtype]
        assert np.array_equal(again(ROWS), expected)
    sk.save_weights(model, tmp_path / "m.weights.h5", verify="structure")
    empty = keras.models.clone_model(model)
    empty.load_weights(tmp_path / "m.weights.h5")
    assert np.array_equal(empty(ROWS), expected)


def test_strings_are_valid_inputs_and_outputs():
    upper = sk.to_keras(tf.strings.upper, inputs=tf.TensorSpec([None], tf.string))
    assert list(upper(tf.constant(["a", "b"])).numpy()) == [b"A", b"B"]


@pytest.mark.skipif(
    keras.__version__ == "3.3.3", reason="this version of Keras has no complex numbers"
)
def test_complex_numbers_are_valid_outputs():
    waves = sk.to_keras(lambda x: tf.signal.fft(tf.cast(x, tf.complex64)), inputs=SPEC)
    assert waves.predict(ROWS, verbose=0).dtype == "complex64"


def test_custom_gradients_of_the_source_are_saved_in_the_file(tmp_path):
    weight = tf.Variable(sources.batch(4, 2), name="w")

    @tf.custom_gradient
    def straight_through(x):
        return tf.sign(x), lambda upstream: 5.0 * upstream

    model = sk.to_keras(lambda x: straight_through(x @ weight), inputs=SPEC)
    model.save(tmp_path / "m.keras")
    expected = tf.matmul(ROWS, 5.0 * tf.ones([4, 2]), transpose_a=True)
    for instance in (model, keras.models.load_model(tmp_path / "m.keras")):
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(instance(ROWS))
        assert np.array_equal(tape.gradient(total, instance.trainable_weights[0].value), expected)


@pytest.mark.filterwarnings("ignore:non-integer arguments to randrange")
def test_the_list_that_a_model_of_keras_2_takes_stays_a_list(tmp_path):
    import tf_keras

    left, right = tf_keras.Input((4,)), tf_keras.Input((4,))
    sum_of = tf_keras.layers.Dense(4)(left) + tf_keras.layers.Dropout(0.5)(right)
    source = tf_keras.Model([left, right], sum_of)
    tf.saved_model.save(source, str(tmp_path / "pair"))
    model = sk.to_keras(tmp_path / "pair")
    expected = tf.function(source)([ROWS, ROWS], training=False)
    assert np.array_equal(model([ROWS, ROWS]), expected)
    assert not np.array_equal(model([ROWS, ROWS], training=True), expected)


# Graphs of TF 1.


v1 = tf.compat.v1


def test_only_what_a_signature_needs_becomes_weights(tmp_path):
    model = sk.to_keras(sources.tf1_saved_model(tmp_path / "tf1"), name="m")
    names = ["dense/kernel", "norm/beta", "norm/gamma", "norm/mean", "norm/variance"]
    assert sorted(weight.path for weight in model.weights) == [f"m/{name}" for name in names]


def test_a_placeholder_selects_the_training_mode_of_a_frozen_graph():
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, 4], name="x")
        training = v1.placeholder_with_default(False, [], name="is_training")
        v1.placeholder_with_default(1.0, [], name="unused")
        tf.identity(tf.where(training, -x, x), name="y")
    model = sk.to_keras(graph.as_graph_def())
    assert np.array_equal(model(ROWS), ROWS)
    assert np.array_equal(model(ROWS, training=True), -ROWS)


def test_a_signature_input_named_is_training_selects_the_mode(tmp_path):
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 4], name="x")
        training = v1.placeholder(tf.bool, [], name="p")
        weight = v1.get_variable("w", initializer=2.0, use_resource=False)
        inputs = {"x": x, "is_training": training}
        y = weight * tf.where(training, -x, x)
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(tmp_path / "m"), inputs, {"y": y})
    model = sk.to_keras(tmp_path / "m")
    assert np.array_equal(model(ROWS), 2 * ROWS)
    assert np.array_equal(model(ROWS, training=True), -2 * ROWS)


def test_a_shape_that_a_graph_does_not_specify_can_be_given():
    with tf.Graph().as_default() as graph:
        v1.placeholder_with_default(v1.placeholder(tf.float32, [None, 4], name="x"), None, name="y")
    frozen = graph.as_graph_def()
    with pytest.raises(sk.ConversionError, match="no known rank"):
        sk.to_keras(frozen, outputs="y")
    model = sk.to_keras(frozen, inputs="x", outputs={"y": (None, 4)})
    assert model.output_shape == (None, 4)
    assert np.array_equal(model(ROWS), ROWS)


def test_a_frozen_graph_with_a_table_is_refused_by_the_name_of_its_node():
    with tf.Graph().as_default() as graph:
        keys = tf.lookup.KeyValueTensorInitializer(["a"], tf.constant([1.0]))
        table = tf.lookup.StaticHashTable(keys, 0.0)
        words = v1.placeholder(tf.string, [None], name="x")
        tf.ensure_shape(table.lookup(words), [None], name="y")
    with pytest.raises(
        sk.ConversionError, match=r"empty after loading.*HashTableV2 \(hash_table\)"
    ):
        sk.to_keras(graph.as_graph_def(), inputs="x", outputs="y")


def _loop_of_tf_1(x, kernel):
    v1.disable_control_flow_v2()
    try:
        step = lambda n, h: (n + 1, tf.tanh(tf.matmul(h, kernel)))  # noqa: E731
        return tf.while_loop(lambda n, h: n < 3, step, (0, x))[1]
    finally:
        v1.enable_control_flow_v2()


def test_a_loop_of_tf_1_is_converted_for_predictions_only(tmp_path):
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 4], name="x")
        weight = v1.get_variable("w", initializer=sources.batch(4, 4), use_resource=False)
        y = _loop_of_tf_1(x, weight)
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(tmp_path / "m"), {"x": x}, {"y": y})
        expected = session.run(y, {x: ROWS})
    with pytest.raises(sk.ConversionError, match=r"loop of TF 1.*\n.*trainable=False"):
        sk.to_keras(tmp_path / "m")
    model = sk.to_keras(tmp_path / "m", trainable=False)
    assert model.trainable_weights == []
    assert np.allclose(model(ROWS), expected)
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, 4], name="x")
        tf.identity(_loop_of_tf_1(x, sources.batch(4, 4)), name="y")
    for constants in ("keep", "weights"):
        options = {"outputs": {"y": (None, 4)}, "constants": constants, "trainable": False}
        frozen = sk.to_keras(graph.as_graph_def(), **options)
        assert np.allclose(frozen(ROWS), expected)
