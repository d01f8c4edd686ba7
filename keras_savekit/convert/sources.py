"""Whatever TensorFlow calls a model, as functions of flat tensors.

Each kind of source ends as a `Traced`. What is done with it is `program`'s business.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_savekit.convert import frozen, structure
from keras_savekit.convert.attributes import reach
from keras_savekit.convert.ops import require_allowed
from keras_savekit.errors import ConversionError

SIGNATURE = "serving_default"


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


def traced(source: Any, wanted: Wanted) -> Traced:
    """Trace `source`. Raises ConversionError for what cannot be a Keras model."""
    if isinstance(source, keras.Layer):
        what = f"{source.name!r} is a Keras {'model' if _is_model(source) else 'layer'} already"
        raise ConversionError(what, "", "save it with sk.save_model or in a callback")
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.suffix == ".pb" and path.name != "saved_model.pb":
            return _frozen(path, wanted)
        return _saved_model(path, wanted)
    if isinstance(source, tf.compat.v1.GraphDef):
        return _graph(source, "the GraphDef", wanted)
    if isinstance(source, tf.types.experimental.ConcreteFunction):
        return _concrete(source, source, wanted)
    if isinstance(source, tf.Module) or not callable(source):
        return _object(source, wanted)
    return _function(source, source, wanted)


def _is_model(source: Any) -> bool:
    return isinstance(source, keras.Model)


def _object(source: Any, wanted: Wanted) -> Traced:
    function = getattr(source, wanted.call, None)
    if not callable(function):
        known = sorted(name for name in dir(source) if _is_function_of(source, name))
        has = f"it has {', '.join(known)}" if known else "it has no function of its own"
        what = f"a {type(source).__name__} has no function {wanted.call!r}: {has}"
        raise ConversionError(what, "call=", "name the function to call")
    return _function(function, source, wanted)


def _is_function_of(source: Any, name: str) -> bool:
    kinds = (tf.types.experimental.PolymorphicFunction, tf.types.experimental.ConcreteFunction)
    return not name.startswith("_") and isinstance(getattr(source, name, None), kinds)


def _function(function: Callable[..., Any], source: Any, wanted: Wanted) -> Traced:
    inputs = wanted.inputs
    restored = getattr(function, "concrete_functions", ())
    signature = getattr(function, "input_signature", None)
    if inputs is None and signature:
        inputs = signature[0] if len(signature) == 1 else list(signature)
    elif inputs is None and restored:
        inputs = _first_inputs(restored)
    if inputs is None:
        what = "nothing says what goes in"
        remedy = "give inputs=, for example inputs=tf.TensorSpec([None, 28, 28])"
        raise ConversionError(what, _name(function), remedy)
    template = structure.specifications(inputs)
    arguments, keywords = structure.bound(function, template)
    mode = structure.mode_parameter(function) or ("training" if restored else None)

    def traced_in(**modes: bool) -> Any:
        def call(positional: Any, named: Any) -> Any:
            return function(*positional, **named, **modes)

        return _concrete_of(call, template, (arguments, keywords), wanted.outputs)

    training = None
    with _translated(_name(function)):
        if mode is None:
            inference = traced_in()
        else:
            inference = traced_in(**{mode: False})
            with suppress(ValueError) if restored else nullcontext():
                training = traced_in(**{mode: True})  # else it was saved in one mode only
    # Now that it was called it has all its variables.
    return Traced(inference, training, structure.plain(template), reach(source), source)


def _concrete_of(
    call: Callable[[Any, Any], Any], template: Any, arguments: Any, outputs: Any
) -> Any:
    """`call` with flat tensors for arguments, as a concrete function."""
    layout = structure.plain(template)
    flat = _named(layout)

    def function(*tensors: Any) -> Any:
        given = keras.tree.pack_sequence_as(layout, list(tensors))
        made = structure.like(template, given)
        positional, named = _in_place(arguments, template, made)
        return structure.plain(call(positional, named))

    concrete = tf.function(function).get_concrete_function(*flat)
    if outputs is None:
        return concrete
    _require_outputs(concrete.structured_outputs, outputs)
    return tf.function(
        lambda *tensors: _selected(concrete(*tensors), outputs), autograph=False
    ).get_concrete_function(*flat)


def _in_place(arguments: Any, template: Any, made: Any) -> Any:
    """`arguments`, which hold parts of `template`, with the same parts of `made`."""
    positional, named = arguments
    if named:
        return (), {key: made[key] for key in named}
    if len(positional) == 1 and positional[0] is template:
        return (made,), {}
    return tuple(made), {}


def _named(layout: Any) -> list[Any]:
    """The leaves of plain containers, named by themselves or by their places."""
    named: list[Any] = []
    places = keras.tree.flatten(structure.places(layout, "inputs"))
    for place, spec in zip(places, keras.tree.flatten(layout), strict=True):
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


def _selected(outputs: Any, wanted: Any) -> Any:
    if isinstance(wanted, str):
        return outputs[wanted]
    return {name: outputs[name] for name in wanted}


def _require_outputs(outputs: Any, wanted: Any) -> None:
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    if not isinstance(outputs, Mapping) or not set(names) <= set(outputs):
        has = ", ".join(map(str, outputs)) if isinstance(outputs, Mapping) else "no names"
        raise ConversionError(f"no output {names} comes out", "outputs=", f"the outputs have {has}")


def _first_inputs(restored: Sequence[Any]) -> Any:
    """What a loaded function was traced with: batches of any size rather than of one."""

    def fixed(function: Any) -> int:
        leaves = keras.tree.flatten(function.structured_input_signature)
        return sum(isinstance(each, tf.TensorSpec) and each.shape[:1] != [None] for each in leaves)

    return _inputs_of(min(restored, key=fixed))


def _inputs_of(function: Any) -> Any:
    """The tensors among the arguments of a concrete function."""
    positional, named = function.structured_input_signature
    given = [each for each in positional if _has_tensors(each)]
    named = {key: value for key, value in named.items() if _has_tensors(value)}
    if named and not given:
        return named
    return given[0] if len(given) == 1 and not named else given


def _has_tensors(argument: Any) -> bool:
    return any(isinstance(leaf, tf.TypeSpec) for leaf in keras.tree.flatten(argument))


def _concrete(function: Any, source: Any, wanted: Wanted) -> Traced:
    """A function that is traced already: its inputs are what they are."""
    inputs = structure.specifications(_inputs_of(function))
    single = isinstance(inputs, Mapping) and len(inputs) == 1

    def call(positional: Any, named: Any) -> Any:
        outputs = function(*positional, **named)
        if wanted.outputs is None and isinstance(outputs, Mapping) and len(outputs) == 1:
            return next(iter(outputs.values()))  # a signature wraps what it returns
        return outputs

    if isinstance(inputs, Mapping):
        arguments: Any = ((), inputs)
    else:
        arguments = (tuple(inputs) if isinstance(inputs, list) else (inputs,), {})
    with _translated(_name(function)):
        concrete = _concrete_of(call, inputs, arguments, wanted.outputs)
    plain = next(iter(inputs.values())) if single else structure.plain(inputs)
    return Traced(concrete, None, plain, reach(source), source)


def _saved_model(path: Path, wanted: Wanted) -> Traced:
    directory = path.parent if path.name == "saved_model.pb" else path
    if not (directory / "saved_model.pb").is_file():
        what = "is not the directory of a SavedModel" if path.exists() else "does not exist"
        raise ConversionError(what, str(path), "a frozen graph ends in .pb")
    with _translated(str(path)):
        require_allowed(frozen.saved_functions(directory / "saved_model.pb"), str(path))
        loaded = tf.saved_model.load(str(directory))
    signatures = getattr(loaded, "signatures", {})
    if callable(getattr(loaded, wanted.call, None)):
        function = getattr(loaded, wanted.call)
        return _function(function, loaded, wanted)
    name = SIGNATURE if wanted.call == "__call__" else wanted.call
    if name in signatures:
        return _concrete(signatures[name], loaded, wanted)
    known = [*signatures, *(each for each in dir(loaded) if _is_function_of(loaded, each))]
    remedy = f"it has {', '.join(known)}: name one with call=" if known else "it has none"
    raise ConversionError(f"no signature or function {name!r}", str(path), remedy)


def _frozen(path: Path, wanted: Wanted) -> Traced:
    if not path.is_file():
        raise ConversionError("does not exist", str(path), "check the path")
    return _graph(frozen.read(path), str(path), wanted)


def _graph(graph: Any, where: str, wanted: Wanted) -> Traced:
    require_allowed(frozen.operations(graph), where)
    with _translated(where):
        function, inputs, holder = frozen.as_function(graph, wanted, where)
        layout = structure.specifications(inputs)
        concrete = _concrete_of(lambda given, _: function(given[0]), layout, ((layout,), {}), None)
    return Traced(concrete, None, layout, reach(holder), holder)


def _name(function: Any) -> str:
    name = getattr(function, "__qualname__", None) or getattr(function, "name", "the function")
    return name.decode() if isinstance(name, bytes) else str(name)


@contextmanager
def _translated(where: str) -> Iterator[None]:
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
