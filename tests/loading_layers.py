"""Layers that do something when they are loaded, each in models of every kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

layers = keras.layers
OVERRIDES = ("load_own_variables", "save_own_variables", "load_assets", "save_assets")
NUMBERS = np.random.default_rng(0).normal(5, 3, (6, 4)).astype("float32")
OTHERS = np.random.default_rng(1).normal(-2, 7, (6, 4)).astype("float32")
INTEGERS = np.array([[3, 5, 3, 9], [5, 5, 9, 7]] * 3)
TEXTS = np.array([["a b"], ["b c c"], ["zz a"]] * 2)
WORDS = np.array([["a"], ["b"], ["b"], ["d"], ["zz"], ["a"]])


def found() -> list[str]:
    """Names of all public layers that load or save in a way of their own."""
    names = {}
    for name in dir(layers):
        layer = getattr(layers, name)
        if isinstance(layer, type) and issubclass(layer, layers.Layer):
            own = [each for each in OVERRIDES if _own(layer, each)]
            if own:
                names[layer] = layer.__name__
    return sorted(set(names.values()))


def _own(layer: type, method: str) -> bool:
    return getattr(layer, method, None) is not getattr(layers.Layer, method, None)


@dataclass(frozen=True)
class Recipe:
    """How to make one of the layers.

    make: the layer; built or not, and not adapted.
    inputs: what it is called with.
    adapts: data that it is adapted on, if it adapts.
    otherwise: data for a layer that was adapted on something else. None: it need not be
        adapted before it is restored.
    in_configuration: what it adapts is nowhere but in the model's configuration.
    in_assets: what it adapts is a vocabulary, which is no weight.
    """

    make: Callable[[], Any]
    inputs: Any = None
    adapts: Any = None
    otherwise: Any = None
    in_configuration: bool = False
    in_assets: bool = False

    @property
    def x(self) -> Any:
        return NUMBERS if self.inputs is None else self.inputs

    def adapted(self) -> Any:
        layer = self.make()
        if self.adapts is not None:
            layer.adapt(self.adapts)
        return layer

    def fresh(self) -> Any:
        layer = self.make()
        if self.otherwise is not None:
            layer.adapt(self.otherwise)
        return layer


@keras.saving.register_keras_serializable("loading_layers")
class Table(layers.Layer):
    """Computes a table of its weights when they are loaded, as it does when it is built.

    It spoils what it is given and rounds its own weights, as no layer should.
    """

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3), initializer="glorot_uniform")
        self.tabulate()

    def tabulate(self):
        self.table = np.cumsum(self.kernel.numpy(), axis=0)

    def call(self, x):
        return keras.ops.matmul(x, self.table) + 0 * keras.ops.matmul(x, self.kernel)

    def load_own_variables(self, store):
        super().load_own_variables(store)
        self.tabulate()
        values = store["0"]
        values *= 0
        self.kernel.assign(np.round(self.kernel.numpy(), 1))


@keras.saving.register_keras_serializable("loading_layers")
class Remembering(layers.Layer):
    """Keeps what is no weight, saves it by itself, and cannot save it before it has it."""

    number: Any = None

    def adapt(self, data):
        self.number = np.float32(np.mean(data))

    def call(self, x):
        return x * (1.0 if self.number is None else self.number)

    def save_own_variables(self, store):
        store["number"] = np.asarray(self.number.copy())

    def load_own_variables(self, store):
        self.number = np.float32(store["number"][()])


@keras.saving.register_keras_serializable("loading_layers")
class Refusing(layers.Layer):
    """Loads what it likes; changes itself before it refuses."""

    refuses = False

    def build(self, shape):
        self.scale = self.add_weight(shape=(), initializer="ones")
        self.factor, self.seen = 2.0, np.ones(1)

    def call(self, x):
        return x * self.scale * self.factor * self.seen

    def load_own_variables(self, store):
        self.factor = 100.0
        if Refusing.refuses:
            raise ValueError("not today")
        super().load_own_variables(store)
        self.factor = 2.0


def reshaped(shape: tuple[int, ...], layer: Callable[[], Any]) -> Recipe:
    return Recipe(layer, NUMBERS.reshape(-1, *shape))


def vocabulary(layer: Any, inputs: Any, other: Any, **arguments: Any) -> Recipe:
    return Recipe(lambda: layer(**arguments), inputs, inputs[:4], other, in_assets=True)


_OTHER_TEXTS, _OTHER_WORDS = np.array([["x y"], ["x w v"]]), np.array([["x"], ["y"], ["w"]])
RECIPES: dict[str, list[Recipe]] = {
    "Conv1D": [reshaped((4, 1), lambda: layers.Conv1D(2, 2))],
    "Conv2D": [reshaped((2, 2, 1), lambda: layers.Conv2D(2, 2))],
    "Conv3D": [reshaped((2, 2, 1, 1), lambda: layers.Conv3D(2, 1))],
    "Dense": [Recipe(lambda: layers.Dense(3))],
    "Discretization": [
        Recipe(lambda: layers.Discretization(num_bins=3), adapts=NUMBERS, in_configuration=True)
    ],
    "EinsumDense": [Recipe(lambda: layers.EinsumDense("ab,bc->ac", output_shape=3))],
    "Embedding": [Recipe(lambda: layers.Embedding(12, 3), INTEGERS)],
    "IntegerLookup": [
        vocabulary(layers.IntegerLookup, INTEGERS, np.array([[1, 2, 4]])),
        vocabulary(layers.IntegerLookup, INTEGERS, np.array([[1, 2, 4, 6]]), output_mode="tf_idf"),
    ],
    "Normalization": [
        Recipe(layers.Normalization, adapts=NUMBERS),
        Recipe(layers.Normalization, adapts=NUMBERS, otherwise=OTHERS),
        Recipe(lambda: layers.Normalization(axis=None, invert=True), adapts=NUMBERS),
    ],
    "ReversibleEmbedding": [
        Recipe(lambda: layers.ReversibleEmbedding(12, 3), INTEGERS),
    ],
    "StringLookup": [
        vocabulary(layers.StringLookup, WORDS, _OTHER_WORDS),
        vocabulary(layers.StringLookup, WORDS, _OTHER_WORDS, output_mode="tf_idf"),
    ],
    "TextVectorization": [
        vocabulary(layers.TextVectorization, TEXTS, _OTHER_TEXTS, output_sequence_length=4),
        vocabulary(layers.TextVectorization, TEXTS, _OTHER_TEXTS, output_mode="tf_idf"),
    ],
    "TorchModuleWrapper": [],  # another backend's
    # Own ones.
    "Table": [Recipe(Table)],
    "Remembering": [Recipe(Remembering, adapts=NUMBERS)],
}
OWN = ("Remembering", "Table")


@keras.saving.register_keras_serializable("loading_layers")
class Subclassed(keras.Model):
    """Holds a layer in a list, as many do."""

    def __init__(self, layer, **kwargs):
        super().__init__(**kwargs)
        self.held = [layer]

    def build(self, shape):
        if not self.held[0].built:
            self.held[0].build(shape)
        self.gain = self.add_weight(shape=(), initializer="ones")

    def call(self, x):
        return self.gain * keras.ops.sum(_flat(self.held[0](x)), axis=-1, keepdims=True)

    def get_config(self):
        return {
            **super().get_config(), "layer": keras.saving.serialize_keras_object(self.held[0])
        }  # fmt: skip

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("layer")), **config)


@keras.saving.register_keras_serializable("loading_layers")
class Flat(layers.Layer):
    """Numbers in one row, whatever the layer before gave."""

    def call(self, x):
        return _flat(x)


def _flat(x: Any) -> Any:
    x = keras.ops.cast(x, "float32")
    return keras.ops.reshape(x, (-1, int(np.prod(x.shape[1:]))))


def _input(x: Any) -> Any:
    return keras.Input(x.shape[1:], dtype="string" if x.dtype.kind == "U" else str(x.dtype))


def sequential(layer: Any, x: Any) -> Any:
    return keras.Sequential([_input(x), layer, Flat(), layers.Dense(1)])


def functional(layer: Any, x: Any) -> Any:
    inputs = _input(x)
    return keras.Model(inputs, layers.Dense(1)(Flat()(layer(inputs))))


def nested(layer: Any, x: Any) -> Any:
    inputs, inner = _input(x), _input(x)
    return keras.Model(inputs, layers.Dense(1)(Flat()(keras.Model(inner, layer(inner))(inputs))))


def subclassed(layer: Any, x: Any) -> Any:
    made = Subclassed(layer)
    made(tensor(x))
    return made


FRAMES = {each.__name__: each for each in (sequential, functional, nested, subclassed)}


def tensor(x: Any) -> Any:
    return keras.ops.convert_to_tensor(x)


def outputs(model: Any, x: Any) -> bytes:
    return np.asarray(model(tensor(x))).tobytes()
