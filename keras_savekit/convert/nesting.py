"""Nested inputs and outputs: read their specifications, convert to plain containers and back.

Keras models take and return dictionaries, lists and tuples of tensors. Dataclasses
and named tuples become dictionaries by field, and are rebuilt for the source.
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
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def specifications(inputs: Any) -> Any:
    """Return `inputs` with a `tf.TensorSpec` for each leaf.

    A leaf may be a `tf.TensorSpec`, a `keras.Input`, a shape with its batch axis
    (for float32), or an example batch (for batches of any size).
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
    children = _children(inputs)
    if children is not None:
        return _rebuild(inputs, [specifications(value) for value in children.values()])
    raise ConversionError(
        f"cannot read the inputs from {inputs!r}",
        "inputs=",
        "give a tf.TensorSpec, a keras.Input, a shape with its batch axis, or an example batch for"
        " each input, in the dictionary, tuple or dataclass that the source takes",
    )


def to_plain(nested: Any) -> Any:
    """Return `nested` with dictionaries in place of dataclasses and named tuples."""
    children = _children(nested)
    if children is None:
        return nested
    if _is_sequence(nested):
        return _rebuild(nested, [to_plain(value) for value in children.values()])
    return {key: to_plain(value) for key, value in children.items()}


def from_plain(template: Any, nested: Any) -> Any:
    """Undo `to_plain`: return `nested` with the dataclasses of `template`."""
    children = _children(template)
    if children is None:
        return nested
    return _rebuild(template, [from_plain(value, nested[key]) for key, value in children.items()])


def leaf_paths(nested: Any, at: str = "") -> Any:
    """Return `nested` with each leaf replaced by its path, joined by dots."""
    children = _children(nested)
    if children is None:
        return at
    paths = (f"{at}.{key}" if at else str(key) for key in children)
    return _rebuild(
        nested, [leaf_paths(*child) for child in zip(children.values(), paths, strict=True)]
    )


def argument_binder(signature: inspect.Signature, inputs: Any) -> Callable[[Any], dict[str, Any]]:
    """Return a function that binds values, nested as `inputs`, to a function's arguments.

    A dictionary of parameters is bound by name, a list or tuple that fits the
    parameters by position, and anything else as the only argument.
    """
    parameters = [
        parameter for parameter in signature.parameters.values() if parameter.name not in TRAINING
    ]
    required = {
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty and parameter.kind not in _VARIADIC
    }
    positional = [parameter for parameter in parameters if parameter.kind in _POSITIONAL]
    if isinstance(inputs, Mapping):
        open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        names = {parameter.name for parameter in parameters}
        known = set(inputs) <= names or (open_ended and bool(required or not positional))
        if required <= set(inputs) and known:
            return lambda values: dict(signature.bind_partial(**values).arguments)
    if _is_sequence(inputs):
        variadic = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)
        fewest = sum(parameter.name in required for parameter in positional)
        if variadic and fewest <= len(inputs):
            return lambda values: dict(signature.bind_partial(*values).arguments)
        if fewest <= len(inputs) <= len(positional):
            names_in_order = [parameter.name for parameter in positional]
            return lambda values: dict(zip(names_in_order, values))  # noqa: B905
    return lambda values: dict(signature.bind_partial(values).arguments)


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of `function`, or `(*inputs)` if it is unknown."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return inspect.Signature([inspect.Parameter("inputs", inspect.Parameter.VAR_POSITIONAL)])


def is_mode(spec: tf.TensorSpec, *names: Any) -> bool:
    """Whether an input with one of these names selects the training mode."""
    return bool(spec.dtype == tf.bool and spec.shape.rank == 0 and set(names) & set(TRAINING))


def output_shapes(outputs: Any) -> dict[str, Any]:
    """Return the argument `outputs` as names, each with a shape or None."""
    names = [outputs] if isinstance(outputs, str) else outputs
    return dict(names) if isinstance(names, Mapping) else dict.fromkeys(names)


def with_shape(tensor: Any, shape: Any) -> Any:
    """Return `tensor` with the static shape `shape`, or unchanged if that is None."""
    return tensor if shape is None else tf.ensure_shape(tensor, shape)


def _is_shape(value: Any) -> bool:
    return isinstance(value, tf.TensorShape) or (
        isinstance(value, (list, tuple))
        and bool(value)
        and all(axis is None or isinstance(axis, int) for axis in value)
    )


def _children(nested: Any) -> dict[Any, Any] | None:
    """Return the children of a container by field, key or position; None for a leaf."""
    if dataclasses.is_dataclass(nested) and not isinstance(nested, type):
        fields = dataclasses.fields(nested)
        return {field.name: getattr(nested, field.name) for field in fields}
    if isinstance(nested, Mapping):
        return dict(nested)
    if isinstance(nested, (list, tuple)):
        names = getattr(nested, "_fields", range(len(nested)))
        return dict(zip(names, nested, strict=True))
    return None


def _rebuild(nested: Any, values: Sequence[Any]) -> Any:
    """Return a container like `nested` with these values."""
    if isinstance(nested, Mapping):
        return dict(zip(nested, values, strict=True))
    if _is_sequence(nested):
        return type(nested)(values)
    names = _children(nested) or {}
    return type(nested)(**dict(zip(names, values, strict=True)))


def _is_sequence(nested: Any) -> bool:
    """Whether `nested` is a list or tuple without named fields."""
    return isinstance(nested, (list, tuple)) and not hasattr(nested, "_fields")
