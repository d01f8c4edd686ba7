"""Which variables a traced source uses, under which names, and what else it holds on to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from keras_savekit.convert.tracing import Traced
from keras_savekit.errors import ConversionError

# What a Keras weight can be.
_NUMBERS = ("float", "bfloat", "int", "uint", "bool")


@dataclass(frozen=True, slots=True)
class Captured:
    """A variable of the source.

    name: what it will be called: its own name, or where another has the same, its path.
    paths: every way to it through attributes; empty if there is none.
    """

    name: str
    variable: tf.Variable
    paths: tuple[str, ...]


def captured(traced: Traced) -> list[Captured]:
    """In the order in which the source's attributes are walked, then of their use.

    Raises ConversionError for a resource that cannot be saved, by name, and for
    variables that cannot be weights.
    """
    used: dict[int, tf.Variable] = {}
    for function in filter(None, (traced.inference, traced.training)):
        used |= {id(variable): variable for variable in function.variables}
    _require_known(traced, used)
    _require_one_device(traced)
    ordered = [each for each in traced.reached if each in used]
    ordered += [each for each in used if each not in traced.reached]
    paths = {each: tuple(traced.reached[each][1]) for each in ordered if each in traced.reached}
    names = _unique(
        [_own_name(used[each]) for each in ordered], [paths.get(x, ()) for x in ordered]
    )
    found = [
        Captured(name, used[each], paths.get(each, ()))
        for name, each in zip(names, ordered, strict=True)
    ]
    for each in found:
        _require_weight(each)
    return found


def _own_name(variable: tf.Variable) -> str:
    name = variable.name.partition(":")[0].strip("/")
    return "" if name.rpartition("/")[2].startswith("Variable") else name


def _unique(own: list[str], paths: list[tuple[str, ...]]) -> list[str]:
    """Own names where they tell variables apart, else paths, else numbers behind them."""
    counts = Counter(own)
    names = [
        name if name and counts[name] == 1 else (ways[0] if ways else name or "variable")
        for name, ways in zip(own, paths, strict=True)
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


def _require_weight(found: Captured) -> None:
    variable = found.variable
    if not variable.shape.is_fully_defined():
        what = f"the variable {found.name!r} has no fixed shape: {variable.shape}"
        raise ConversionError(what, "", "give it its shape; a Keras weight does not change it")
    if not variable.dtype.name.startswith(_NUMBERS):
        what = f"the variable {found.name!r} is of {variable.dtype.name}"
        raise ConversionError(what, "", "a Keras weight is a number; make it a constant")


def _require_one_device(traced: Traced) -> None:
    for value, paths in traced.reached.values():
        if isinstance(value, tf.distribute.DistributedValues):
            what = f"the variable {paths[0]!r} lies on several devices"
            remedy = "make the source outside of the strategy's scope, and convert it within"
            raise ConversionError(what, "", remedy)


def _require_known(traced: Traced, used: dict[int, tf.Variable]) -> None:
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
                    "the source holds a resource that none of its attributes lead to",
                    f"used by {users}",
                    "make the table or dataset an attribute of the module, or of what it closes"
                    " over; of other resources no file can hold the content",
                )


def _captures(function: Any) -> Iterator[tuple[Any, Any]]:
    outer = function.captured_inputs
    return zip(outer, function.graph.inputs[len(function.graph.inputs) - len(outer) :], strict=True)
