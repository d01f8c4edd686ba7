"""Whatever can be called with tensors, as concrete functions of flat tensors."""

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

# A callable of a source: given what goes in, and arguments that tell the mode.
Called = Callable[[Any, Mapping[Any, Any]], Any]


@dataclass(frozen=True, slots=True)
class Traced:
    """A source as concrete functions.

    inference, training: take the leaves of `inputs` in order, return what the
        source does, in plain containers; training is None if the source knows
        no such mode.
    inputs: a `tf.TensorSpec` for each input, in plain containers.
    reached: variables and resources with their paths, as `attributes.reach` finds them.
    source: kept, since functions hold their variables weakly.
    """

    inference: Any
    training: Any | None
    inputs: Any
    reached: Mapping[int, tuple[Any, list[str]]]
    source: Any


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user said of a source: the arguments of `to_keras`."""

    inputs: Any = None
    outputs: Any = None
    call: str = "__call__"
    constants: str = "keep"


def of_function(function: Callable[..., Any], source: Any, wanted: Wanted) -> Traced:
    """Trace what is written in Python, or was saved by `tf.function`."""
    signature = nesting.signature_of(function)
    mode = next((name for name in nesting.TRAINING if name in signature.parameters), None)
    said = _arguments(function, signature)
    kept = {name: value for name, value in said.items() if not _has_tensors(value)}
    if wanted.inputs is None:
        by_name = any(_is_keyword(signature, each) for each in said if each not in kept)
        template, place = _said(said, mode, _name(function), by_name=by_name)
    else:
        template = nesting.specifications(wanted.inputs)
        place = nesting.bound(signature, template)

    def called(made: Any, modes: Mapping[Any, Any]) -> Any:
        given = {**kept, **place(made), **modes}
        ordered = {name: given[name] for name in signature.parameters if name in given}
        bound = inspect.BoundArguments(signature, ordered)
        return function(*bound.args, **bound.kwargs)

    with translated(_name(function)):
        inference, training = in_modes(called, template, wanted.outputs, mode, said)
    # Now that it was called it has all its variables.
    reached = reach(source, function)
    return Traced(inference, training, nesting.plain(template), reached, source)


def of_concrete(function: Any, source: Any, wanted: Wanted) -> Traced:
    """Trace a function that is traced already: its inputs are what they are."""
    positional, named = function.structured_input_signature
    said = {**dict(enumerate(positional)), **named}
    mode = next((key for key, value in said.items() if _is_mode(key, value)), None)
    template, place = _said(said, mode, _name(function), by_name=not positional)

    def called(made: Any, modes: Mapping[Any, Any]) -> Any:
        told = {key: tf.constant(trains) for key, trains in modes.items()}
        given = {**said, **place(made), **told}
        by_place = [given[at] for at in range(len(positional))]
        outputs = function(*by_place, **{key: given[key] for key in named})
        if wanted.outputs is None and isinstance(outputs, Mapping) and len(outputs) == 1:
            return next(iter(outputs.values()))  # a signature wraps what it returns
        return outputs

    with translated(_name(function)):
        inference, training = in_modes(called, template, wanted.outputs, mode)
    return Traced(inference, training, nesting.plain(template), reach(source), source)


def in_modes(
    called: Called, template: Any, outputs: Any, mode: Hashable, said: Mapping[Any, Any] = {}
) -> tuple[Any, Any]:
    """`called` as concrete functions: not training; and training, if there is a `mode`.

    said: what it was saved with, if it was: perhaps in one mode only.
    """

    def function(modes: Mapping[Any, Any]) -> Any:
        return _concrete_of(lambda made: called(made, modes), template, outputs)

    if mode is None:
        return function({}), None
    if mode not in said or _has_tensors(said[mode]):
        return function({mode: False}), function({mode: True})
    training = None
    with suppress(ValueError):
        training = function({mode: True})
    with suppress(ValueError):
        return function({mode: False}), training
    return function({}), None


def _concrete_of(call: Callable[[Any], Any], template: Any, outputs: Any) -> Any:
    """`call` with flat tensors for arguments, as a concrete function."""
    layout = nesting.plain(template)
    flat = _named(layout)

    def function(*tensors: Any) -> Any:
        given = keras.tree.pack_sequence_as(layout, list(tensors))
        return nesting.plain(call(nesting.like(template, given)))

    concrete = tf.function(function).get_concrete_function(*flat)
    if outputs is not None:
        everything = concrete
        _require_names(everything.structured_outputs, outputs)
        concrete = tf.function(
            lambda *tensors: _selected(everything(*tensors), outputs), autograph=False
        ).get_concrete_function(*flat)
    _require_tensors(concrete.structured_outputs)
    return concrete


def _arguments(function: Any, signature: inspect.Signature) -> dict[str, Any]:
    """What a function was traced with, by parameter: specifications and constants."""
    restored = getattr(function, "concrete_functions", ())
    if restored:
        positional, named = min(restored, key=_fixed).structured_input_signature
    else:
        positional, named = getattr(function, "input_signature", None) or (), {}
    return dict(signature.bind_partial(*positional, **named).arguments)


def _fixed(function: Any) -> int:
    """How many inputs take batches of one size only."""
    leaves = keras.tree.flatten(function.structured_input_signature)
    return sum(isinstance(each, tf.TensorSpec) and each.shape[:1] != [None] for each in leaves)


def _said(
    said: Mapping[Any, Any], mode: Any, where: str, *, by_name: bool
) -> tuple[Any, Callable[[Any], Mapping[Any, Any]]]:
    """What goes in as the function itself says it, and which arguments become of that."""
    tensors = {
        key: nesting.specifications(value)
        for key, value in said.items()
        if _has_tensors(value) and key != mode
    }
    if not tensors:
        what = "nothing says what goes in"
        remedy = "give inputs=, for example inputs=tf.TensorSpec([None, 28, 28])"
        raise ConversionError(what, where, remedy)
    if len(tensors) == 1:
        return next(iter(tensors.values())), lambda made: dict.fromkeys(tensors, made)
    if by_name:
        return tensors, dict
    return list(tensors.values()), lambda made: dict(zip(tensors, made, strict=True))


def _is_keyword(signature: inspect.Signature, name: str) -> bool:
    return signature.parameters[name].kind is inspect.Parameter.KEYWORD_ONLY


def _is_mode(key: Any, value: Any) -> bool:
    return isinstance(value, tf.TensorSpec) and nesting.is_mode(value, key, value.name)


def _has_tensors(argument: Any) -> bool:
    return any(isinstance(leaf, tf.TypeSpec) for leaf in keras.tree.flatten(argument))


def _named(layout: Any) -> list[Any]:
    """The leaves of plain containers, named by themselves or by their places."""
    named: list[Any] = []
    for place, spec in _leaves(layout, "inputs"):
        if not isinstance(spec, tf.TensorSpec):
            kind = type(spec).__name__.removesuffix("Spec")
            what = f"a {kind} goes in, which a Keras model does not take as it is"
            raise ConversionError(what, place, "wrap the source in one that takes dense tensors")
        if not spec.shape.rank:
            what = "has no known rank" if spec.shape.rank is None else "has no batch axis"
            remedy = "give its shape with the batch axis first in inputs="
            raise ConversionError(f"the input {spec.name or place!r} {what}", place, remedy)
        named.append(tf.TensorSpec(spec.shape, spec.dtype, f"input_{len(named)}"))
    return named


def _leaves(layout: Any, root: str) -> Iterator[tuple[str, Any]]:
    places = keras.tree.flatten(nesting.places(layout, root))
    return zip(places, keras.tree.flatten(layout), strict=True)


def _selected(outputs: Any, wanted: Any) -> Any:
    if isinstance(wanted, str):
        return outputs[wanted]
    return {
        name: nesting.shaped(outputs[name], shape) for name, shape in nesting.named(wanted).items()
    }


def _require_names(outputs: Any, wanted: Any) -> None:
    names = list(nesting.named(wanted))
    if not isinstance(outputs, Mapping) or not set(names) <= set(outputs):
        has = ", ".join(map(str, outputs)) if isinstance(outputs, Mapping) else "no names"
        raise ConversionError(f"no output {names} comes out", "outputs=", f"the outputs have {has}")


def _require_tensors(outputs: Any) -> None:
    found = list(_leaves(outputs, "outputs"))
    for place, spec in found or [("outputs", None)]:
        if not isinstance(spec, (tf.TensorSpec, tf.Tensor)):
            kind = "None" if spec is None else f"a {type(spec).__name__.removesuffix('Spec')}"
            what = f"{kind} comes out, which a Keras model does not give"
            remedy = "take some of several with outputs=, or wrap the source in one that returns"
            raise ConversionError(what, place, f"{remedy} dense tensors")


def require_ranks(traced: Traced) -> None:
    """Raise ConversionError if the rank of an output is not known, as Keras needs it."""
    for place, output in _leaves(traced.inference.structured_outputs, "outputs"):
        if output.shape.rank is None:
            what = "an output has no known rank"
            remedy = "say it with tf.ensure_shape in the source, or by its name, as in"
            raise ConversionError(what, place, f"{remedy} outputs={{'y': (None, 2)}}")


def _name(function: Any) -> str:
    name = getattr(function, "__qualname__", None) or getattr(function, "name", "the function")
    return name.decode() if isinstance(name, bytes) else str(name)


@contextmanager
def translated(where: str) -> Iterator[None]:
    """The seam where TensorFlow traces and loads, and says in many ways why not."""
    try:
        yield
    except ConversionError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
        said = lines[-1] if lines[0] == "in user code:" else lines[0]
        what = f"TensorFlow cannot trace it: {type(error).__name__}: {said}"
        raise ConversionError(what, where, "see the cause below") from error
