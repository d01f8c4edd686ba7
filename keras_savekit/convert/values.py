"""The values that a converted model begins with: the source's, or a checkpoint's.

A `tf.train.Checkpoint` names variables by the attributes that lead to them from
whatever object it was made of, a TF 1 checkpoint by their own names.
Source of the format: tensorflow/core/protobuf/trackable_object_graph.proto.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from keras_savekit.convert.attributes import parts
from keras_savekit.convert.captures import Captured
from keras_savekit.errors import ConversionError

_OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE = "VARIABLE_VALUE"
_SHOWN = 10
# For each weight its key in a checkpoint, or None.
Keys = list[str | None]


def values_of(
    weights: Sequence[Captured], source: Any, checkpoint: str | os.PathLike[str] | None
) -> list[Any]:
    """One array for each weight.

    Raises ConversionError that names every weight which the checkpoint lacks or
    has in another shape or dtype, and every object of it that would fit as well.
    """
    if checkpoint is None:
        return [weight.variable.numpy() for weight in weights]
    where = os.fspath(checkpoint)
    reader = _reader(where)
    held = reader.get_variable_to_shape_map()
    dtypes = reader.get_variable_to_dtype_map()
    nodes = _nodes(reader, held)
    keys = _matched(weights, source, nodes, held, where)
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
        known = sorted(key.partition("/.ATTRIBUTES/")[0] for key in held if key != _OBJECTS)
        what = "the checkpoint does not fit the source:\n  " + "\n  ".join(lines)
        has = ", ".join(known[:_SHOWN]) + (" ..." if len(known) > _SHOWN else "")
        raise ConversionError(what, where, f"the checkpoint has {has}")
    return [reader.get_tensor(key) for key in keys]


def _reader(where: str) -> Any:
    path = tf.train.latest_checkpoint(where) if os.path.isdir(where) else where  # noqa: PTH112
    try:
        return tf.train.load_checkpoint(path or where)
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        said = str(error).strip().splitlines()[0]
        remedy = "give the path that tf.train.Checkpoint.save returned, or its directory"
        raise ConversionError(f"cannot be read as a checkpoint: {said}", where, remedy) from error


def _nodes(reader: Any, held: Mapping[str, Any]) -> Sequence[Any]:
    """The objects in a checkpoint; none of one of TF 1."""
    if _OBJECTS not in held:
        return []
    return list(TrackableObjectGraph.FromString(reader.get_tensor(_OBJECTS)).nodes)


def _matched(
    weights: Sequence[Captured],
    source: Any,
    nodes: Sequence[Any],
    held: Mapping[str, Any],
    where: str,
) -> Keys:
    """The keys of that object of the checkpoint which fits best, or by name if that fits better."""
    fits = {path: _below(root, nodes, weights, source) for path, root in _objects(nodes).items()}
    most = max(map(_count, fits.values()), default=0)
    named = _by_name(weights, nodes, held)
    if _count(named) > most or not most:
        return named
    best = {path: keys for path, keys in fits.items() if _count(keys) == most}
    # What was saved by itself is meant; of several within another object each may be.
    if "" not in best and len({tuple(keys) for keys in best.values()}) > 1:
        listed = ", ".join(sorted(best)[:_SHOWN])
        what = f"the checkpoint holds several objects that fit the source: {listed}"
        remedy = "restore one into the source by tf.train.Checkpoint, and convert it without"
        raise ConversionError(what, where, f"{remedy} checkpoint=")
    return best.get("", next(iter(best.values())))


def _objects(nodes: Sequence[Any]) -> dict[str, int]:
    """Every object of a checkpoint by the shortest path to it."""
    found: dict[int, str] = {0: ""} if nodes else {}
    waiting = list(found)
    for number in waiting:
        for child in nodes[number].children:
            if child.node_id not in found:
                above = found[number]
                found[child.node_id] = f"{above}/{child.local_name}" if above else child.local_name
                waiting.append(child.node_id)
    return {path: number for number, path in found.items()}


def _below(root: int, nodes: Sequence[Any], weights: Sequence[Captured], source: Any) -> Keys:
    """Walk the source and an object of the checkpoint side by side, as TensorFlow restores."""
    places = {id(weight.variable): at for at, weight in enumerate(weights)}
    keys: Keys = [None] * len(weights)
    seen = set()
    waiting = [(source, root)]
    for holder, number in waiting:
        if id(holder) in places:
            at = places[id(holder)]
            keys[at] = keys[at] or _value_key(nodes[number])
            continue
        held = parts(holder) if nodes[number].children else {}
        for child in nodes[number].children:
            pair = (id(held.get(child.local_name)), child.node_id)
            if child.local_name in held and pair not in seen:
                seen.add(pair)
                waiting.append((held[child.local_name], child.node_id))
    return keys


def _by_name(weights: Sequence[Captured], nodes: Sequence[Any], held: Mapping[str, Any]) -> Keys:
    saved = [(each.full_name, _value_key(node)) for node in nodes for each in node.attributes]
    counts = Counter(name for name, _ in saved)
    keys = {key: key for key in held} | {name: key for name, key in saved if counts[name] == 1}
    own = [weight.variable.name.partition(":")[0] for weight in weights]
    return [
        next((keys[name] for name in (theirs, weight.name) if keys.get(name)), None)
        for theirs, weight in zip(own, weights, strict=True)
    ]


def _value_key(node: Any) -> str | None:
    return next((each.checkpoint_key for each in node.attributes if each.name == _VALUE), None)


def _count(keys: Keys) -> int:
    return sum(key is not None for key in keys)
