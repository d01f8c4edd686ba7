"""The values that a converted model begins with: the source's, or a checkpoint's.

A `tf.train.Checkpoint` names variables by the attributes that lead to them from
whatever object it was made of, a TF 1 checkpoint by their own names.
Source of the format: tensorflow/core/protobuf/trackable_object_graph.proto.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from keras_savekit.convert.captures import Captured
from keras_savekit.errors import ConversionError

_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_SHOWN = 10


def values_of(weights: Sequence[Captured], checkpoint: str | os.PathLike[str] | None) -> list[Any]:
    """One array for each weight.

    Raises ConversionError that names every weight which the checkpoint lacks or
    has in another shape or dtype.
    """
    if checkpoint is None:
        return [weight.variable.numpy() for weight in weights]
    where = os.fspath(checkpoint)
    reader = _reader(where)
    held = reader.get_variable_to_shape_map()
    dtypes = reader.get_variable_to_dtype_map()
    keys = _matched(weights, held)
    differences = []
    for weight, key in zip(weights, keys, strict=True):
        wanted = tuple(weight.variable.shape), weight.variable.dtype.base_dtype
        if key is None:
            differences.append(f"{weight.name} is missing in the checkpoint")
        elif (tuple(held[key]), dtypes[key]) != wanted:
            differences.append(
                f"{weight.name} is {dtypes[key].name}{list(held[key])} in the checkpoint ({key}), "
                f"{wanted[1].name}{list(wanted[0])} in the model"
            )
    if differences:
        more = len(differences) - _SHOWN
        lines = differences[:_SHOWN] + ([f"and {more} more"] if more > 0 else [])
        has = ", ".join(sorted(_plain_keys(held))[:_SHOWN])
        raise ConversionError(
            "the checkpoint does not fit the source:\n  " + "\n  ".join(lines),
            where,
            f"the checkpoint has {has}{' ...' if len(held) > _SHOWN else ''}",
        )
    return [reader.get_tensor(key) for key in keys]


def _reader(where: str) -> Any:
    path = tf.train.latest_checkpoint(where) if os.path.isdir(where) else where  # noqa: PTH112
    try:
        return tf.train.load_checkpoint(path or where)
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        said = str(error).strip().splitlines()[0]
        remedy = "give the path that tf.train.Checkpoint.save returned, or its directory"
        raise ConversionError(f"cannot be read as a checkpoint: {said}", where, remedy) from error


def _matched(weights: Sequence[Captured], held: Mapping[str, Any]) -> list[str | None]:
    """The key of each weight: by attributes below one common object, or by name."""
    by_path = {key.removesuffix(_VALUE): key for key in held if key.endswith(_VALUE)}
    roots = {""} | {f"{root}/" for path in by_path for root in _above(path)}
    ways = [_escaped(weight.paths) for weight in weights]
    best: list[str | None] = [None] * len(weights)
    for root in sorted(roots, key=lambda each: (len(each), each)):
        keys = [next((by_path[root + w] for w in way if root + w in by_path), None) for way in ways]
        if _count(keys) > _count(best):
            best = keys
    names = [_named(weight, held) for weight in weights]
    return names if _count(names) > _count(best) else best


def _named(weight: Captured, held: Mapping[str, Any]) -> str | None:
    own = weight.variable.name.partition(":")[0]
    return next((name for name in (own, weight.name) if name in held), None)


def _above(path: str) -> Iterator[str]:
    parts = path.split("/")
    yield from ("/".join(parts[:depth]) for depth in range(1, len(parts)))


def _escaped(paths: Sequence[str]) -> list[str]:
    """As the keys of a checkpoint write them; a name of an attribute has no "/" of its own."""
    return ["/".join(part.replace(".", "..") for part in path.split("/")) for path in paths]


def _plain_keys(held: Mapping[str, Any]) -> list[str]:
    return [key.removesuffix(_VALUE) for key in held if not key.startswith("_CHECKPOINTABLE")]


def _count(keys: Sequence[str | None]) -> int:
    return sum(key is not None for key in keys)
