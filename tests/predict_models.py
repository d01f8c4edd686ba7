"""Models for depth `predict`, of many shapes and with unusual behaviour."""

from __future__ import annotations

import keras

layers = keras.layers


@keras.saving.register_keras_serializable("predict")
class Undescribed(keras.Model):
    """A model whose inputs are not known."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(2)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return {"twice": 2 * self.dense(x), "once": self.dense(x)}


@keras.saving.register_keras_serializable("predict")
class Whim(layers.Layer):
    """Gives other outputs in each process."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.whim = float(id(self) % 1_000_003)

    def call(self, x):
        return x + self.whim


@keras.saving.register_keras_serializable("predict")
class Remembering(layers.Layer):
    """Has a number that is not a weight, and saves it itself."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.number = 1.0

    def call(self, x):
        return x * self.number

    def save_own_variables(self, store):
        store["number"] = self.number

    def load_own_variables(self, store):
        self.number = float(store["number"][()])


def functional(inputs, outputs):
    return keras.Model(inputs, outputs)


def listed():
    left, right = keras.Input((4,)), keras.Input((None, 3))
    pooled = layers.GlobalAveragePooling1D()(right)
    return functional([left, right], [layers.Dense(2)(left), layers.Concatenate()([left, pooled])])


def named():
    words, age = keras.Input((5,), dtype="int32", name="words"), keras.Input((1,), name="age")
    inputs = {"words": words, "age": age}
    embedded = layers.Flatten()(layers.Embedding(2, 3)(inputs["words"]))
    joined = layers.Concatenate()([embedded, inputs["age"]])
    return functional(inputs, {"b": layers.Dense(2)(joined), "a": joined})


def images():
    return keras.Sequential(
        [
            keras.Input((None, None, 3)),
            layers.Conv2D(2, 7, strides=3),
            layers.MaxPooling2D(5),
            layers.Flatten(),
        ]
    )


def fixed_batch():
    return keras.Sequential(
        [keras.Input((5, 3), batch_size=4), layers.GRU(4, stateful=True), layers.Dense(2)]
    )


def drawing():
    """Outputs depend on a generator's state, also when it is not trained."""

    inputs = keras.Input((4,))
    return functional(inputs, layers.Dropout(0.5, seed=3)(layers.Dense(50)(inputs), training=True))


def small_numbers():
    return keras.Sequential([keras.Input((4,)), layers.Dense(3, dtype="bfloat16")])


def flags():
    inputs = keras.Input((3,), dtype="bool")
    return functional(inputs, keras.ops.cast(inputs, "float32"))


def texts():
    vectorize = layers.TextVectorization(output_sequence_length=4)
    vectorize.adapt(["a b", "b"])
    inputs = keras.Input((1,), dtype="string")
    return functional(inputs, layers.Embedding(8, 2)(vectorize(inputs)))


def undescribed():
    made = Undescribed()
    made(keras.ops.ones((1, 3)))
    return made


def with_layer(layer):
    return keras.Sequential([keras.Input((4,)), layers.Dense(2), layer])
