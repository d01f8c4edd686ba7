"""Nested inputs and outputs: what the user says of them, as specifications and plain containers.

Keras models take and give dictionaries, lists and tuples of tensors. Dataclasses
and named tuples become dictionaries by field, and are made again for the source.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_savekit.errors import ConversionError

TRAINING = ("training", "is_training")


def specifications(inputs: Any) -> Any:
    """`inputs` with a `tf.TensorSpec` for each leaf.

    A leaf may be one, a `keras.Input`, a shape with its batch axis (then of
    float32), or an example batch, of which any size is then taken.
    Raises ConversionError for anything else.
    """
    if isinstance(inputs, (tf.TensorSpec, tf.RaggedTensorSpec, tf.SparseTensorSpec)):
        return inputs
    if isinstance(inputs, keras.KerasTensor):
        return tf.TensorSpec(inputs.shape, inputs.dtype, inputs.name)
    if isinstance(inputs, (np.ndarray, tf.Tensor)):
        return tf.TensorSpec([None, *inputs.shape[1:]], inputs.dtype)
    if _is_shape(inputs):
        return tf.TensorSpec(inputs, tf.float32)
    parts = _parts(inputs)
    if parts is not None:
        return _with(inputs, [specifications(value) for value in parts.values()])
    raise ConversionError(
        f"cannot tell what goes in from {inputs!r}",
        "inputs=",
        "give a tf.TensorSpec, a keras.Input, a shape with its batch axis, or an example batch for"
        " each input, in the dictionary, tuple or dataclass that the source takes",
    )


def plain(structure: Any) -> Any:
    """With dictionaries in place of dataclasses and named tuples."""
    parts = _parts(structure)
    if parts is None:
        return structure
    if _is_sequence(structure):
        return _with(structure, [plain(value) for value in parts.values()])
    return {key: plain(value) for key, value in parts.items()}


def like(template: Any, structure: Any) -> Any:
    """The inverse of `plain`: `structure` with the dataclasses of `template`."""
    parts = _parts(template)
    if parts is None:
        return structure
    return _with(template, [like(value, structure[key]) for key, value in parts.items()])


def places(structure: Any, at: str = "") -> Any:
    """`structure` with the way to each leaf in its place, dots between."""
    parts = _parts(structure)
    if parts is None:
        return at
    ways = (f"{at}.{key}" if at else str(key) for key in parts)
    return _with(structure, [places(*each) for each in zip(parts.values(), ways, strict=True)])


def bound(function: Callable[..., Any], inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """How `function` is called with `inputs`: arguments by position and by name.

    A dictionary of its parameters goes by name, a list or tuple that it has
    parameters for by position, everything else is its one argument.
    """
    parameters = _parameters(function)
    required = [each.name for each in parameters if each.default is each.empty]
    names = {each.name for each in parameters}
    if isinstance(inputs, Mapping) and set(required) <= set(inputs) <= names:
        return (), dict(inputs)
    variadic = any(each.kind is each.VAR_POSITIONAL for each in parameters)
    most = len(inputs) if variadic and _is_sequence(inputs) else len(parameters)
    if _is_sequence(inputs) and len(required) - variadic <= len(inputs) <= most:
        return tuple(inputs), {}
    return (inputs,), {}


def mode_parameter(function: Callable[..., Any]) -> str | None:
    """The name under which `function` is told whether it trains; None if it is not."""
    try:
        names = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None
    return next((name for name in TRAINING if name in names), None)


def _parameters(function: Callable[..., Any]) -> Sequence[inspect.Parameter]:
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return [inspect.Parameter("inputs", inspect.Parameter.VAR_POSITIONAL)]
    return [
        each
        for each in found
        if each.name not in TRAINING and each.kind not in (each.KEYWORD_ONLY, each.VAR_KEYWORD)
    ]


def _is_shape(value: Any) -> bool:
    return isinstance(value, tf.TensorShape) or (
        isinstance(value, (list, tuple))
        and bool(value)
        and all(each is None or isinstance(each, int) for each in value)
    )


def _parts(structure: Any) -> dict[Any, Any] | None:
    """What a container holds, by field, key or position; None of a leaf."""
    if dataclasses.is_dataclass(structure) and not isinstance(structure, type):
        fields = dataclasses.fields(structure)
        return {each.name: getattr(structure, each.name) for each in fields}
    if isinstance(structure, Mapping):
        return dict(structure)
    if isinstance(structure, (list, tuple)):
        names = getattr(structure, "_fields", range(len(structure)))
        return dict(zip(names, structure, strict=True))
    return None


def _with(structure: Any, values: Sequence[Any]) -> Any:
    """A container like `structure` that holds `values`."""
    if isinstance(structure, Mapping):
        return dict(zip(structure, values, strict=True))
    if _is_sequence(structure):
        return type(structure)(values)
    names = _parts(structure) or {}
    return type(structure)(**dict(zip(names, values, strict=True)))


def _is_sequence(structure: Any) -> bool:
    """Lists and tuples, not those with named fields."""
    return isinstance(structure, (list, tuple)) and not hasattr(structure, "_fields")
