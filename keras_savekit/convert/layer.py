"""A Keras layer whose computation is a TensorFlow graph, and whose weights are Keras variables.

The configuration of the layer contains all that it needs, so a file with the layer
needs nothing else.

The name of this module and of the class are in users' files: they do not change.
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
from keras_savekit.convert.recipe import program_from
from keras_savekit.convert.safe_mode import in_safe_mode
from keras_savekit.convert.trust import is_trusted, trust
from keras_savekit.errors import ConversionError


@keras.saving.register_keras_serializable("keras_savekit")
class GraphLayer(keras.layers.Layer):  # type: ignore[misc]
    """A graph with named weights. `to_keras` makes it, and Keras makes it from a file.

    random_operations: kinds of operations in the graph that draw random numbers
        whose state cannot be restored; a resume reports them.

    The weights start as zeros; `to_keras` or the file assigns their values. Calls in
    training mode run the source's graph for training, if it has one.

    program: the bytes of a `convert.program.Program`, in base64; or
    recipe: how registered code makes the program, as `convert.recipe` describes it.
    frozen: names of weights that are trainable in the graph, and not in this layer.
    """

    def __init__(
        self,
        program: str | None = None,
        recipe: Mapping[str, Any] | None = None,
        frozen: Sequence[str] = (),
        **keywords: Any,
    ) -> None:
        # The graph has its own dtypes: Keras must not cast the inputs.
        super().__init__(**{"dtype": "float32", **keywords}, autocast=False)
        self._source = {"program": program, "recipe": recipe and dict(recipe)}
        graph = program_from(recipe) if recipe else decode_program(program or "")
        self.supports_jit = False  # XLA rounds differently from the source
        self._weight_specs = tuple(graph.weights)
        with keras.name_scope(self.name):
            self.graph_weights = [_make_variable(weight) for weight in self._weight_specs]
        self._functions = graph.load(
            {weight.name: variable.value for weight, variable in self._pairs()}
        )
        self.random_operations = tuple(
            sorted({kind for kind, _ in graph.operations if kind in STATEFUL_RANDOM})
        )
        trust(graph.digest)
        self.built = True
        # Last: only then does `trainable` of the layer apply to the variables.
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
        """Return the shapes and dtypes of the graph, for any batch."""
        return tf.nest.map_structure(
            lambda spec: keras.KerasTensor(spec.shape, spec.dtype.name),
            self._functions.inference.structured_outputs,
        )

    def get_config(self) -> dict[str, Any]:
        """Return the configuration: the graph, and the weights that were frozen one by one."""
        frozen = [
            weight.name
            for weight, variable in self._pairs()
            if self.trainable and weight.trainable and not variable.trainable
        ]
        kept = {"frozen": frozen} if frozen else {}
        return {**super().get_config(), **self._source, **kept}

    def _pairs(self) -> Iterator[tuple[Weight, Any]]:
        return zip(self._weight_specs, self.graph_weights, strict=True)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> GraphLayer:
        """Make the layer, if its graph may run.

        Raises ConversionError in safe mode, unless this process made the graph
        or ran it before.
        """
        program = config.get("program")
        if program and in_safe_mode() and not is_trusted(decode_program(program).digest):
            raise ConversionError(
                "contains a TensorFlow graph, which is code, and unsafe unless you trust the file",
                f"layer {config.get('name')}",
                "pass safe_mode=False to load_model, or call"
                " keras.config.enable_unsafe_deserialization() first",
            )
        return cls(**config)


def encode_program(program: Program) -> str:
    """Encode a program for the layer's configuration."""
    return base64.b64encode(program.content).decode()


def decode_program(text: str) -> Program:
    """Decode what `encode_program` returned. Raises ConversionError for damaged text."""
    try:
        return Program(base64.b64decode(text, validate=True))
    except (binascii.Error, TypeError) as error:
        raise ConversionError(f"the graph of a layer is damaged: {error}") from error


def _make_variable(weight: Weight) -> Any:
    *scopes, name = weight.name.split("/")
    return _make_in_scopes(scopes, name, weight)


def _make_in_scopes(scopes: Sequence[str], name: str, weight: Weight) -> Any:
    if scopes:
        with keras.name_scope(scopes[0]):
            return _make_in_scopes(scopes[1:], name, weight)
    return keras.Variable(
        "zeros", shape=weight.shape, dtype=weight.dtype, trainable=weight.trainable, name=name
    )
