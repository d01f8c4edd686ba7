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
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


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


def bound(signature: inspect.Signature, inputs: Any) -> Callable[[Any], dict[str, Any]]:
    """Which arguments of a function `inputs` become.

    A dictionary of its parameters goes by name, a list or tuple that it has
    parameters for by position, everything else is its one argument.
    """
    parameters = [each for each in signature.parameters.values() if each.name not in TRAINING]
    required = {each.name for each in parameters if each.default is each.empty}
    required -= {each.name for each in parameters if each.kind in _VARIADIC}
    places = [each for each in parameters if each.kind in _POSITIONAL]
    if isinstance(inputs, Mapping):
        open_ended = any(each.kind is each.VAR_KEYWORD for each in parameters)
        names = {each.name for each in parameters}
        known = set(inputs) <= names or (open_ended and bool(required or not places))
        if required <= set(inputs) and known:
            return lambda made: dict(signature.bind_partial(**made).arguments)
    if _is_sequence(inputs):
        variadic = any(each.kind is each.VAR_POSITIONAL for each in parameters)
        fewest = sum(each.name in required for each in places)
        if variadic and fewest <= len(inputs):
            return lambda made: dict(signature.bind_partial(*made).arguments)
        if fewest <= len(inputs) <= len(places):
            return lambda made: {each.name: value for each, value in zip(places, made)}  # noqa: B905
    return lambda made: dict(signature.bind_partial(made).arguments)


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """What `function` takes; whatever it is given, if that cannot be told."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return inspect.Signature([inspect.Parameter("inputs", inspect.Parameter.VAR_POSITIONAL)])


def is_mode(spec: tf.TensorSpec, *names: Any) -> bool:
    """Whether an input of one of these names tells if the model is trained."""
    return bool(spec.dtype == tf.bool and spec.shape.rank == 0 and set(names) & set(TRAINING))


def named(outputs: Any) -> dict[str, Any]:
    """`outputs=` as names with a shape or None for each."""
    names = [outputs] if isinstance(outputs, str) else outputs
    return dict(names) if isinstance(names, Mapping) else dict.fromkeys(names)


def shaped(tensor: Any, shape: Any) -> Any:
    """`tensor`, known to have `shape` if there is one."""
    return tensor if shape is None else tf.ensure_shape(tensor, shape)


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
