"""Trace callables as concrete functions of flat tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from keras_savekit.convert import nesting
from keras_savekit.convert.attributes import reach
from keras_savekit.errors import ConversionError

# A callable of a source: takes the inputs, and arguments that select the mode.
SourceCall = Callable[[Any, Mapping[Any, Any]], Any]


@dataclass(frozen=True, slots=True)
class TracedSource:
    """A source as concrete functions.

    inference, training: take the leaves of `inputs` in order, and return the
        source's outputs in plain containers. training is None if the source has
        no training mode.
    inputs: a `tf.TensorSpec` for each input, in plain containers.
    reached: variables and resources with their paths, as `attributes.reach` returns them.
    source: kept alive here, because functions refer to their variables weakly.
    """

    inference: Any
    training: Any | None
    inputs: Any
    reached: Mapping[int, tuple[Any, list[str]]]
    source: Any


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How to read a source: the arguments of `to_keras`."""

    inputs: Any = None
    outputs: Any = None
    call: str = "__call__"
    constants: str = "keep"


def trace_function(
    function: Callable[..., Any], source: Any, options: SourceOptions
) -> TracedSource:
    """Trace a Python function, or a `tf.function` from a SavedModel."""
    signature = nesting.signature_of(function)
    mode = next((name for name in nesting.TRAINING if name in signature.parameters), None)
    arguments = _traced_arguments(function, signature)
    constants = {name: value for name, value in arguments.items() if not _has_tensors(value)}
    if options.inputs is None:
        by_name = any(_is_keyword(signature, name) for name in arguments if name not in constants)
        template, to_arguments = _template_of(arguments, mode, _name_of(function), by_name=by_name)
    else:
        template = nesting.specifications(options.inputs)
        to_arguments = nesting.argument_binder(signature, template)

    def call(values: Any, modes: Mapping[Any, Any]) -> Any:
        given = {**constants, **to_arguments(values), **modes}
        ordered = {name: given[name] for name in signature.parameters if name in given}
        bound = inspect.BoundArguments(signature, ordered)
        return function(*bound.args, **bound.kwargs)

    with tracing_errors(_name_of(function)):
        inference, training = trace_modes(call, template, options.outputs, mode, arguments)
    # Only now: the first call may make variables.
    reached = reach(source, function)
    return TracedSource(inference, training, nesting.to_plain(template), reached, source)


def trace_concrete(function: Any, source: Any, options: SourceOptions) -> TracedSource:
    """Trace a concrete function, whose inputs are fixed."""
    positional, named = function.structured_input_signature
    arguments = {**dict(enumerate(positional)), **named}
    mode = next((key for key, value in arguments.items() if _is_mode(key, value)), None)
    template, to_arguments = _template_of(
        arguments, mode, _name_of(function), by_name=not positional
    )

    def call(values: Any, modes: Mapping[Any, Any]) -> Any:
        mode_values = {key: tf.constant(trains) for key, trains in modes.items()}
        given = {**arguments, **to_arguments(values), **mode_values}
        in_order = [given[index] for index in range(len(positional))]
        outputs = function(*in_order, **{key: given[key] for key in named})
        if options.outputs is None and isinstance(outputs, Mapping) and len(outputs) == 1:
            return next(iter(outputs.values()))  # a signature wraps its output in a dictionary
        return outputs

    with tracing_errors(_name_of(function)):
        inference, training = trace_modes(call, template, options.outputs, mode)
    return TracedSource(inference, training, nesting.to_plain(template), reach(source), source)


def trace_modes(
    call: SourceCall, template: Any, outputs: Any, mode: Hashable, arguments: Mapping[Any, Any] = {}
) -> tuple[Any, Any]:
    """Return concrete functions for inference and, if there is a `mode`, for training.

    arguments: the arguments of the saved trace, if any. It may have one mode only.
    """

    def function(modes: Mapping[Any, Any]) -> Any:
        return _concrete_of(lambda values: call(values, modes), template, outputs)

    if mode is None:
        return function({}), None
    if mode not in arguments or _has_tensors(arguments[mode]):
        return function({mode: False}), function({mode: True})
    training = None
    with suppress(ValueError):
        training = function({mode: True})
    with suppress(ValueError):
        return function({mode: False}), training
    return function({}), None


def _concrete_of(call: Callable[[Any], Any], template: Any, outputs: Any) -> Any:
    """Return `call` as a concrete function of flat tensors."""
    layout = nesting.to_plain(template)
    flat = _input_specs(layout)

    def function(*tensors: Any) -> Any:
        given = keras.tree.pack_sequence_as(layout, list(tensors))
        return nesting.to_plain(call(nesting.from_plain(template, given)))

    concrete = tf.function(function).get_concrete_function(*flat)
    if outputs is not None:
        everything = concrete
        _require_names(everything.structured_outputs, outputs)
        concrete = tf.function(
            lambda *tensors: _select(everything(*tensors), outputs), autograph=False
        ).get_concrete_function(*flat)
    _require_tensors(concrete.structured_outputs)
    return concrete


def _traced_arguments(function: Any, signature: inspect.Signature) -> dict[str, Any]:
    """Return the specifications and constants of a function's trace, by parameter."""
    restored = getattr(function, "concrete_functions", ())
    if restored:
        positional, named = min(restored, key=_count_fixed_batches).structured_input_signature
    else:
        positional, named = getattr(function, "input_signature", None) or (), {}
    return dict(signature.bind_partial(*positional, **named).arguments)


def _count_fixed_batches(function: Any) -> int:
    """Return how many inputs have a fixed batch size."""
    leaves = keras.tree.flatten(function.structured_input_signature)
    return sum(isinstance(leaf, tf.TensorSpec) and leaf.shape[:1] != [None] for leaf in leaves)


def _template_of(
    arguments: Mapping[Any, Any], mode: Any, where: str, *, by_name: bool
) -> tuple[Any, Callable[[Any], Mapping[Any, Any]]]:
    """Return the inputs that the function specifies, and how they become its arguments."""
    tensors = {
        key: nesting.specifications(value)
        for key, value in arguments.items()
        if _has_tensors(value) and key != mode
    }
    if not tensors:
        what = "the inputs are unknown"
        remedy = "give inputs=, for example inputs=tf.TensorSpec([None, 28, 28])"
        raise ConversionError(what, where, remedy)
    if len(tensors) == 1:
        return next(iter(tensors.values())), lambda values: dict.fromkeys(tensors, values)
    if by_name:
        return tensors, dict
    return list(tensors.values()), lambda values: dict(zip(tensors, values, strict=True))


def _is_keyword(signature: inspect.Signature, name: str) -> bool:
    return signature.parameters[name].kind is inspect.Parameter.KEYWORD_ONLY


def _is_mode(key: Any, value: Any) -> bool:
    return isinstance(value, tf.TensorSpec) and nesting.is_mode(value, key, value.name)


def _has_tensors(argument: Any) -> bool:
    return any(isinstance(leaf, tf.TypeSpec) for leaf in keras.tree.flatten(argument))


def _input_specs(layout: Any) -> list[Any]:
    """Return the specifications of the leaves of plain containers, named by number."""
    named: list[Any] = []
    for place, spec in _leaves_with_paths(layout, "inputs"):
        if not isinstance(spec, tf.TensorSpec):
            kind = type(spec).__name__.removesuffix("Spec")
            what = f"an input is a {kind}, which a converted model does not take"
            raise ConversionError(
                what, place, "wrap the source in a function that takes dense tensors"
            )
        if not spec.shape.rank:
            what = "has no known rank" if spec.shape.rank is None else "has no batch axis"
            remedy = "give its shape with the batch axis first in inputs="
            raise ConversionError(f"the input {spec.name or place!r} {what}", place, remedy)
        named.append(tf.TensorSpec(spec.shape, spec.dtype, f"input_{len(named)}"))
    return named


def _leaves_with_paths(layout: Any, root: str) -> Iterator[tuple[str, Any]]:
    places = keras.tree.flatten(nesting.leaf_paths(layout, root))
    return zip(places, keras.tree.flatten(layout), strict=True)


def _select(outputs: Any, options: Any) -> Any:
    if isinstance(options, str):
        return outputs[options]
    return {
        name: nesting.with_shape(outputs[name], shape)
        for name, shape in nesting.output_shapes(options).items()
    }


def _require_names(outputs: Any, options: Any) -> None:
    names = list(nesting.output_shapes(options))
    if not isinstance(outputs, Mapping) or not set(names) <= set(outputs):
        has = ", ".join(map(str, outputs)) if isinstance(outputs, Mapping) else "no names"
        raise ConversionError(f"there is no output {names}", "outputs=", f"the outputs have {has}")


def _require_tensors(outputs: Any) -> None:
    found = list(_leaves_with_paths(outputs, "outputs"))
    for place, spec in found or [("outputs", None)]:
        if not isinstance(spec, (tf.TensorSpec, tf.Tensor)):
            kind = "None" if spec is None else f"a {type(spec).__name__.removesuffix('Spec')}"
            what = f"an output is {kind}, which a converted model does not return"
            remedy = "select others with outputs=, or wrap the source in a function that returns"
            raise ConversionError(what, place, f"{remedy} dense tensors")


def require_ranks(traced: TracedSource) -> None:
    """Raise ConversionError if the rank of an output is unknown, because Keras needs it."""
    for place, output in _leaves_with_paths(traced.inference.structured_outputs, "outputs"):
        if output.shape.rank is None:
            what = "an output has no known rank"
            remedy = "set it with tf.ensure_shape in the source, or by the output's name, as in"
            raise ConversionError(what, place, f"{remedy} outputs={{'y': (None, 2)}}")


def _name_of(function: Any) -> str:
    name = getattr(function, "__qualname__", None) or getattr(function, "name", "the function")
    return name.decode() if isinstance(name, bytes) else str(name)


@contextmanager
def tracing_errors(where: str) -> Iterator[None]:
    """Translate any error of TensorFlow's tracing and loading to ConversionError."""
    try:
        yield
    except ConversionError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
        message = lines[-1] if lines[0] == "in user code:" else lines[0]
        what = f"TensorFlow cannot trace it: {type(error).__name__}: {message}"
        raise ConversionError(what, where, "see the cause below") from error
