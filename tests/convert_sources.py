"""TensorFlow models without Keras, as users write them: the sources that the tests convert."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

v1 = tf.compat.v1


def _normal(generator: np.random.Generator, *shape: int) -> np.ndarray:
    return generator.normal(0, 0.3, shape).astype("float32")


class Cnn(tf.Module):
    """Convolutions with handwritten batch normalization, and a training mode."""

    def __init__(self) -> None:
        super().__init__(name="cnn")
        random = np.random.default_rng(1)
        with self.name_scope:
            self.kernel = tf.Variable(_normal(random, 3, 3, 1, 4), name="kernel")
            self.gamma = tf.Variable(tf.ones(4), name="gamma")
            self.beta = tf.Variable(tf.zeros(4), name="beta")
            self.mean = tf.Variable(tf.zeros(4), trainable=False, name="mean")
            self.variance = tf.Variable(tf.ones(4), trainable=False, name="variance")
            self.out = tf.Variable(_normal(random, 4, 3), name="out")

    @tf.function
    def __call__(self, images, training=False):
        hidden = tf.nn.conv2d(images, self.kernel, 1, "SAME")
        if training:
            mean, variance = tf.nn.moments(hidden, [0, 1, 2])
            self.mean.assign(0.9 * self.mean + 0.1 * mean)
            self.variance.assign(0.9 * self.variance + 0.1 * variance)
        else:
            mean, variance = tf.identity(self.mean), tf.identity(self.variance)
        hidden = tf.nn.batch_normalization(hidden, mean, variance, self.beta, self.gamma, 1e-3)
        return tf.reduce_mean(tf.nn.relu(hidden), [1, 2]) @ self.out


class Lstm(tf.Module):
    """A recurrence in a `tf.while_loop`."""

    def __init__(self, inputs: int = 3, units: int = 5) -> None:
        super().__init__(name="lstm")
        random = np.random.default_rng(2)
        self.units = units
        self.kernel = tf.Variable(_normal(random, inputs + units, 4 * units), name="kernel")
        self.bias = tf.Variable(tf.zeros(4 * units), name="bias")
        self.out = tf.Variable(_normal(random, units, 2), name="out")

    def __call__(self, sequence):
        steps = tf.unstack(tf.shape(sequence))
        zeros = tf.zeros([steps[0], self.units])

        def step(at, hidden, cell):
            gates = tf.concat([sequence[:, at], hidden], 1) @ self.kernel + self.bias
            enter, forget, leave, new = tf.split(gates, 4, 1)
            cell = tf.sigmoid(forget) * cell + tf.sigmoid(enter) * tf.tanh(new)
            return at + 1, tf.sigmoid(leave) * tf.tanh(cell), cell

        def more(at, hidden, cell):
            return at < steps[1]

        _, hidden, _ = tf.while_loop(more, step, (0, zeros, zeros))
        return hidden @ self.out


class Linear(tf.Module):
    """A layer in the style of Sonnet: the first call makes the weights."""

    def __init__(self, units: int, name: str | None = None) -> None:
        super().__init__(name=name)
        self.units, self.w, self.b = units, None, None

    @tf.Module.with_name_scope
    def __call__(self, x):
        if self.w is None:
            random = np.random.default_rng(self.units)
            with tf.init_scope():
                self.w = tf.Variable(_normal(random, int(x.shape[-1]), self.units), name="w")
                self.b = tf.Variable(tf.zeros(self.units), name="b")
        return x @ self.w + self.b


class Transformer(tf.Module):
    """Blocks of attention in a list, and an embedding that is shared with the output."""

    class Block(tf.Module):
        """Self-attention and a hidden layer, each added to its input."""

        def __init__(self, width: int) -> None:
            super().__init__()
            self.query, self.key, self.value = (Linear(width) for _ in range(3))
            self.hidden = {"up": Linear(2 * width), "down": Linear(width)}

        def __call__(self, x):
            scores = tf.matmul(self.query(x), self.key(x), transpose_b=True)
            x = x + tf.nn.softmax(scores) @ self.value(x)
            return x + self.hidden["down"](tf.nn.gelu(self.hidden["up"](x)))

    def __init__(self) -> None:
        super().__init__(name="transformer")
        self.embedding = tf.Variable(_normal(np.random.default_rng(4), 11, 6), name="embedding")
        self.shared = self.embedding
        self.blocks = [self.Block(6), self.Block(6)]

    def __call__(self, tokens):
        x = tf.gather(self.embedding, tokens)
        for block in self.blocks:
            x = block(x)
        return tf.matmul(tf.reduce_mean(x, 1), self.shared, transpose_b=True)


class Tree(tf.Module):
    """A Sonnet-style tree with `is_training`."""

    def __init__(self) -> None:
        super().__init__(name="tree")
        self.first, self.second = Linear(8, name="first"), Linear(2, name="second")
        self.calls = tf.Variable(0, trainable=False, name="calls", dtype=tf.int64)

    def __call__(self, x, is_training):
        if is_training:
            self.calls.assign_add(1)
        return self.second(tf.nn.elu(self.first(x)))


class Named(tf.Module):
    """One function with an input signature and without a training mode."""

    def __init__(self) -> None:
        super().__init__(name="named")
        random = np.random.default_rng(11)
        self.layers = [{"w": tf.Variable(_normal(random, 4, 4), name="w")} for _ in range(2)]

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32)])
    def __call__(self, x):
        for layer in self.layers:
            x = tf.tanh(x @ layer["w"])
        return x


def closure() -> Any:
    """Return a function over variables that no object owns."""
    weight = tf.Variable(_normal(np.random.default_rng(5), 4, 2), name="weight")
    bias = tf.Variable(tf.zeros(2), name="bias")
    frozen = tf.Variable(2.0, trainable=False, name="scale")

    @tf.function
    def affine(x):
        return frozen * (x @ weight + bias)

    affine.keeps = (weight, bias, frozen)  # a function refers to them weakly
    return affine


def concrete() -> Any:
    """Return the same as a concrete function."""
    function = closure()
    traced = function.get_concrete_function(tf.TensorSpec([None, 4], tf.float32))
    traced.keeps = function.keeps
    return traced


def tf1_saved_model(directory: Path) -> Path:
    """Save a TF 1 graph with batch normalization and its training, with `simple_save`."""
    random = np.random.default_rng(6)

    def variable(name: str, value: Any, *, trainable: bool = True) -> Any:
        return v1.get_variable(name, initializer=value, trainable=trainable, use_resource=False)

    with tf.Graph().as_default() as graph, v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 4], name="x")
        training = v1.placeholder_with_default(False, [], name="is_training")
        hidden = x @ variable("dense/kernel", _normal(random, 4, 3))
        gamma, beta = variable("norm/gamma", tf.ones(3)), variable("norm/beta", tf.zeros(3))
        mean = variable("norm/mean", _normal(random, 3), trainable=False)
        variance = variable("norm/variance", tf.ones(3), trainable=False)
        seen = tf.nn.moments(hidden, [0])
        used = tf.cond(training, lambda: seen, lambda: (tf.identity(mean), tf.identity(variance)))
        y = tf.nn.batch_normalization(hidden, *used, beta, gamma, 1e-3)
        for average, now in zip((mean, variance), seen, strict=True):
            graph.add_to_collection(
                v1.GraphKeys.UPDATE_OPS, v1.assign(average, 0.9 * average + 0.1 * now)
            )
        with tf.control_dependencies(graph.get_collection(v1.GraphKeys.UPDATE_OPS)):
            v1.train.AdamOptimizer().minimize(tf.reduce_mean(y**2))
        v1.summary.scalar("loss", tf.reduce_mean(y**2))
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(directory), {"x": x}, {"y": y})
        v1.train.Saver().save(session, str(directory.with_suffix(".ckpt")))
    return directory


def keras2_model() -> Any:
    """Return a Keras 2 model with batch normalization."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of another package
        import tf_keras

        tf_keras.utils.set_random_seed(7)
        stack = [tf_keras.layers.Dense(5, "relu"), tf_keras.layers.BatchNormalization()]
        return tf_keras.Sequential([tf_keras.Input((4,)), *stack, tf_keras.layers.Dense(2)])


def keras2_saved_model(directory: Path, model: Any = None) -> Path:
    """Save the same as a SavedModel of `tf_keras`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tf.saved_model.save(model or keras2_model(), str(directory))
    return directory


def keras3_export(directory: Path) -> Path:
    """Write what `Model.export` of Keras 3 writes."""
    keras.utils.set_random_seed(8)
    layers = [keras.layers.Dense(5, "relu"), keras.layers.BatchNormalization()]
    model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(2)])
    model.export(str(directory))
    return directory


def frozen_graph(path: Path) -> Path:
    """Write a graph of constants to a `.pb` file."""
    random = np.random.default_rng(9)
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, 4], name="x")
        hidden = tf.nn.relu(x @ tf.constant(_normal(random, 4, 3), name="kernel"), name="hidden")
        tf.identity(hidden @ tf.constant(_normal(random, 3, 2), name="head"), name="y")
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return path


def batch(*shape: int) -> np.ndarray:
    """Return an input batch, always the same."""
    return _normal(np.random.default_rng(10), *shape)
