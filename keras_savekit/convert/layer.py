"""A Keras layer whose computation is a TensorFlow graph, and whose weights are Keras's own.

All it needs travels in its configuration, so that a file with such a layer
stands alone.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_savekit.convert.ops import STATEFUL_RANDOM
from keras_savekit.convert.program import Program, Weight
from keras_savekit.convert.recipe import program_by
from keras_savekit.convert.safe_mode import in_safe_mode
from keras_savekit.convert.trust import is_trusted, trust
from keras_savekit.errors import ConversionError


@keras.saving.register_keras_serializable("keras_savekit")
class GraphLayer(keras.layers.Layer):  # type: ignore[misc]
    """A graph with named weights. Made by `to_keras`, and by Keras from a file.

    random_operations: kinds of operations in it that draw numbers which no seed
        restores; a resumed training tells them.

    Its weights begin as zeros; `to_keras` and the file give them their values.
    Calls in training mode run the graph that the source had for training, if it
    had one.

    program: the graph, as `convert.program.Program` holds it, in base64; or
    recipe: how registered code makes it again, as `convert.recipe` has it.
    frozen: names of weights that are not trained although the graph would have it.
    """

    def __init__(
        self,
        program: str | None = None,
        recipe: Mapping[str, Any] | None = None,
        frozen: Sequence[str] = (),
        **keywords: Any,
    ) -> None:
        # The graph knows its own dtypes: nothing is cast on the way in.
        super().__init__(**{"dtype": "float32", **keywords}, autocast=False)
        self._source = {"program": program, "recipe": recipe and dict(recipe)}
        made = program_by(recipe) if recipe else decoded(program or "")
        self.supports_jit = False  # the numbers are to be those of the source
        self._described = tuple(made.weights)
        with keras.name_scope(self.name):
            self.graph_weights = [_variable(weight) for weight in self._described]
        self._functions = made.load({each.name: kept.value for each, kept in self._pairs()})
        self.random_operations = tuple(
            sorted({kind for kind, _ in made.operations if kind in STATEFUL_RANDOM})
        )
        trust(made.digest)
        self.built = True
        # Only now, when Keras has them among those that `trainable` switches.
        for weight, variable in self._pairs():
            if not self.trainable or weight.name in frozen:
                variable.trainable = False

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Run the graph on the leaves of `inputs`."""
        function = self._functions.inference
        if training:
            function = getattr(self._functions, "training", function)
        return function(*keras.tree.flatten(inputs))

    def compute_output_spec(self, inputs: Any, training: bool = False) -> Any:
        """Shapes and dtypes as the graph says, whatever the batch."""
        return tf.nest.map_structure(
            lambda spec: keras.KerasTensor(spec.shape, spec.dtype.name),
            self._functions.inference.structured_outputs,
        )

    def get_config(self) -> dict[str, Any]:
        """The graph, which weights were frozen one by one, and what every layer has."""
        frozen = [
            weight.name
            for weight, variable in self._pairs()
            if self.trainable and weight.trainable and not variable.trainable
        ]
        kept = {"frozen": frozen} if frozen else {}
        return {**super().get_config(), **self._source, **kept}

    def _pairs(self) -> Iterator[tuple[Weight, Any]]:
        return zip(self._described, self.graph_weights, strict=True)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> GraphLayer:
        """Make the layer, if its code may run.

        Raises ConversionError in safe mode, unless this process made the graph
        itself or has run it before.
        """
        program = config.get("program")
        if program and in_safe_mode() and not is_trusted(decoded(program).digest):
            raise ConversionError(
                "holds a TensorFlow graph, which is code, and unsafe until you trust the file",
                f"layer {config.get('name')}",
                "pass safe_mode=False to load_model, or call"
                " keras.config.enable_unsafe_deserialization() first",
            )
        return cls(**config)


def encoded(program: Program) -> str:
    """A program as the layer's configuration holds it."""
    return base64.b64encode(program.content).decode()


def decoded(text: str) -> Program:
    """The inverse of `encoded`."""
    try:
        return Program(base64.b64decode(text, validate=True))
    except (binascii.Error, TypeError) as error:
        raise ConversionError(f"the graph of a layer is damaged: {error}") from error


def _variable(weight: Weight) -> Any:
    *scopes, name = weight.name.split("/")
    return _within(scopes, name, weight)


def _within(scopes: Sequence[str], name: str, weight: Weight) -> Any:
    if scopes:
        with keras.name_scope(scopes[0]):
            return _within(scopes[1:], name, weight)
    return keras.Variable(
        "zeros", shape=weight.shape, dtype=weight.dtype, trainable=weight.trainable, name=name
    )
