"""Read the first values of a converted model: the source's, or a checkpoint's.

A `tf.train.Checkpoint` names variables by their attribute paths from the saved
object. A TF 1 checkpoint has the variables' own names.
Source of the format: tensorflow/core/protobuf/trackable_object_graph.proto.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from keras_savekit.convert.attributes import children
from keras_savekit.convert.captures import Capture
from keras_savekit.errors import ConversionError

_OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE = "VARIABLE_VALUE"
_MAX_SHOWN = 10
# The key in a checkpoint for each weight, or None.
Keys = list[str | None]


def read_values(
    weights: Sequence[Capture], source: Any, checkpoint: str | os.PathLike[str] | None
) -> list[Any]:
    """Return one array for each weight.

    Raises ConversionError if the checkpoint does not fit. The error names every
    weight that is missing or has another shape or dtype, and if several objects of
    the checkpoint fit, it names them.
    """
    if checkpoint is None:
        return [weight.variable.numpy() for weight in weights]
    where = os.fspath(checkpoint)
    reader = _reader(where)
    shapes = reader.get_variable_to_shape_map()
    dtypes = reader.get_variable_to_dtype_map()
    nodes = _nodes(reader, shapes)
    keys = _match_keys(weights, source, nodes, shapes, where)
    differences = []
    for weight, key in zip(weights, keys, strict=True):
        expected = tuple(weight.variable.shape), weight.variable.dtype.base_dtype
        if key is None:
            differences.append(f"{weight.name} is missing in the checkpoint")
        elif (tuple(shapes[key]), dtypes[key]) != expected:
            differences.append(
                f"{weight.name} is {dtypes[key].name}{list(shapes[key])} in the checkpoint ({key}),"
                f" {expected[1].name}{list(expected[0])} in the model"
            )
    if differences:
        more = len(differences) - _MAX_SHOWN
        lines = differences[:_MAX_SHOWN] + ([f"and {more} more"] if more > 0 else [])
        known = sorted(key.partition("/.ATTRIBUTES/")[0] for key in shapes if key != _OBJECTS)
        what = "the checkpoint does not fit the source:\n  " + "\n  ".join(lines)
        has = ", ".join(known[:_MAX_SHOWN]) + (" ..." if len(known) > _MAX_SHOWN else "")
        raise ConversionError(what, where, f"the checkpoint has {has}")
    return [reader.get_tensor(key) for key in keys]


def _reader(where: str) -> Any:
    path = tf.train.latest_checkpoint(where) if os.path.isdir(where) else where  # noqa: PTH112
    try:
        return tf.train.load_checkpoint(path or where)
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        message = str(error).strip().splitlines()[0]
        remedy = "give the path that tf.train.Checkpoint.save returned, or its directory"
        raise ConversionError(
            f"cannot be read as a checkpoint: {message}", where, remedy
        ) from error


def _nodes(reader: Any, shapes: Mapping[str, Any]) -> Sequence[Any]:
    """Return the objects in a checkpoint; none for a checkpoint of TF 1."""
    if _OBJECTS not in shapes:
        return []
    return list(TrackableObjectGraph.FromString(reader.get_tensor(_OBJECTS)).nodes)


def _match_keys(
    weights: Sequence[Capture],
    source: Any,
    nodes: Sequence[Any],
    shapes: Mapping[str, Any],
    where: str,
) -> Keys:
    """Return the keys of the checkpoint's best object, or keys by name if they fit better."""
    fits = {
        path: _keys_below(root, nodes, weights, source) for path, root in _objects(nodes).items()
    }
    most = max(map(_count_found, fits.values()), default=0)
    named = _keys_by_name(weights, nodes, shapes)
    if _count_found(named) > most or not most:
        return named
    best = {path: keys for path, keys in fits.items() if _count_found(keys) == most}
    # The saved object itself has priority. Among several objects inside it none has.
    if "" not in best and len({tuple(keys) for keys in best.values()}) > 1:
        listed = ", ".join(sorted(best)[:_MAX_SHOWN])
        what = f"the checkpoint contains several objects that fit the source: {listed}"
        remedy = "restore one into the source with tf.train.Checkpoint, and convert it without"
        raise ConversionError(what, where, f"{remedy} checkpoint=")
    return best.get("", next(iter(best.values())))


def _objects(nodes: Sequence[Any]) -> dict[str, int]:
    """Return every object of a checkpoint by its shortest path."""
    found: dict[int, str] = {0: ""} if nodes else {}
    waiting = list(found)
    for number in waiting:
        for child in nodes[number].children:
            if child.node_id not in found:
                parent = found[number]
                name = child.local_name
                found[child.node_id] = f"{parent}/{name}" if parent else name
                waiting.append(child.node_id)
    return {path: number for number, path in found.items()}


def _keys_below(root: int, nodes: Sequence[Any], weights: Sequence[Capture], source: Any) -> Keys:
    """Walk the source and an object of the checkpoint together, as TensorFlow's restore does."""
    places = {id(weight.variable): at for at, weight in enumerate(weights)}
    keys: Keys = [None] * len(weights)
    seen = set()
    waiting = [(source, root)]
    for holder, number in waiting:
        if id(holder) in places:
            at = places[id(holder)]
            keys[at] = keys[at] or _value_key(nodes[number])
            continue
        shapes = children(holder) if nodes[number].children else {}
        for child in nodes[number].children:
            pair = (id(shapes.get(child.local_name)), child.node_id)
            if child.local_name in shapes and pair not in seen:
                seen.add(pair)
                waiting.append((shapes[child.local_name], child.node_id))
    return keys


def _keys_by_name(
    weights: Sequence[Capture], nodes: Sequence[Any], shapes: Mapping[str, Any]
) -> Keys:
    saved = [(item.full_name, _value_key(node)) for node in nodes for item in node.attributes]
    counts = Counter(name for name, _ in saved)
    keys = {key: key for key in shapes} | {name: key for name, key in saved if counts[name] == 1}
    own = [weight.variable.name.partition(":")[0] for weight in weights]
    return [
        next((keys[name] for name in (theirs, weight.name) if keys.get(name)), None)
        for theirs, weight in zip(own, weights, strict=True)
    ]


def _value_key(node: Any) -> str | None:
    return next((item.checkpoint_key for item in node.attributes if item.name == _VALUE), None)


def _count_found(keys: Keys) -> int:
    return sum(key is not None for key in keys)
