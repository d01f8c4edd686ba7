"""Find the variables that a traced source uses, name them, and check its resources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from keras_savekit.convert.tracing import TracedSource
from keras_savekit.errors import ConversionError

# The dtypes of Keras weights.
_NUMBERS = ("float", "bfloat", "int", "uint", "bool")


@dataclass(frozen=True, slots=True)
class Capture:
    """A variable that the source uses.

    name: the name of the weight: the variable's own name, or its path if another
        variable has the same name.
    paths: every path to it through attributes; empty if there is none.
    """

    name: str
    variable: tf.Variable
    paths: tuple[str, ...]


def find_captures(traced: TracedSource) -> list[Capture]:
    """Return the variables in the order of the walk over attributes, then of their use.

    Raises ConversionError, which names the resource or variable, for a resource
    that cannot be saved and for a variable that cannot be a weight.
    """
    used: dict[int, tf.Variable] = {}
    for function in filter(None, (traced.inference, traced.training)):
        used |= {id(variable): variable for variable in function.variables}
    _require_known_resources(traced, used)
    _require_one_device(traced)
    ordered = [key for key in traced.reached if key in used]
    ordered += [key for key in used if key not in traced.reached]
    paths = {key: tuple(traced.reached[key][1]) for key in ordered if key in traced.reached}
    names = _unique_names(
        [_own_name(used[key]) for key in ordered], [paths.get(key, ()) for key in ordered]
    )
    found = [
        Capture(name, used[key], paths.get(key, ()))
        for name, key in zip(names, ordered, strict=True)
    ]
    for capture in found:
        _require_weight(capture)
    return found


def _own_name(variable: tf.Variable) -> str:
    name = variable.name.partition(":")[0].strip("/")
    return "" if name.rpartition("/")[2].startswith("Variable") else name


def _unique_names(own: list[str], paths: list[tuple[str, ...]]) -> list[str]:
    """Return unique names: the own name if it is unique, else a path, with a number if needed."""
    counts = Counter(own)
    names = [
        name if name and counts[name] == 1 else (own_paths[0] if own_paths else name or "variable")
        for name, own_paths in zip(own, paths, strict=True)
    ]
    taken: set[str] = set()
    unique = []
    for name in names:
        free, number = name, 0
        while free in taken:
            number += 1
            free = f"{name}_{number}"
        taken.add(free)
        unique.append(free)
    return unique


def _require_weight(capture: Capture) -> None:
    variable = capture.variable
    if not variable.shape.is_fully_defined():
        what = f"the variable {capture.name!r} has no fixed shape: {variable.shape}"
        raise ConversionError(
            what, "", "give it a fixed shape; the shape of a Keras weight does not change"
        )
    if not variable.dtype.name.startswith(_NUMBERS):
        what = f"the variable {capture.name!r} has the dtype {variable.dtype.name}"
        raise ConversionError(
            what, "", "a Keras weight contains numbers; make the variable a constant"
        )


def _require_one_device(traced: TracedSource) -> None:
    for value, paths in traced.reached.values():
        if isinstance(value, tf.distribute.DistributedValues):
            what = f"the variable {paths[0]!r} is on several devices"
            remedy = "make the source outside the strategy's scope, and convert it inside"
            raise ConversionError(what, "", remedy)


def _require_known_resources(traced: TracedSource, used: dict[int, tf.Variable]) -> None:
    handles = {id(variable.handle) for variable in used.values()}
    handles |= {
        id(value.resource_handle)
        for value, _ in traced.reached.values()
        if not isinstance(value, tf.Variable)
    }
    for function in filter(None, (traced.inference, traced.training)):
        for outer, inner in _captures(function):
            if outer.dtype in (tf.resource, tf.variant) and id(outer) not in handles:
                users = ", ".join(operation.name for operation in inner.consumers())
                raise ConversionError(
                    "the source uses a resource that none of its attributes lead to",
                    f"used by {users}",
                    "make the table or dataset an attribute of the module, or of an object in its"
                    " closure; the content of other resources cannot be saved",
                )


def _captures(function: Any) -> Iterator[tuple[Any, Any]]:
    outer = function.captured_inputs
    return zip(outer, function.graph.inputs[len(function.graph.inputs) - len(outer) :], strict=True)
