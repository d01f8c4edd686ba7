"""Graphs as they lie in files: `GraphDef` and the protocol buffers of a SavedModel.

Sources: tensorflow/core/framework/graph.proto and tensorflow/core/protobuf/saved_model.proto.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from keras_savekit.convert.nesting import is_mode, named, shaped, specifications
from keras_savekit.convert.ops import LOOPS
from keras_savekit.convert.tracing import Called, Wanted
from keras_savekit.errors import ConversionError

_WITH_DEFAULT = "PlaceholderWithDefault"
PLACEHOLDERS = ("Placeholder", "PlaceholderV2", _WITH_DEFAULT)
_VARIABLES = ("Variable", "VariableV2", "VarHandleOp", "AutoReloadVariable", "TemporaryVariable")


def read(path: Path) -> Any:
    """The `GraphDef` in a `.pb` file. Raises ConversionError if it holds none."""
    graph = tf.compat.v1.GraphDef()
    try:
        graph.ParseFromString(path.read_bytes())
    except (DecodeError, OSError) as error:
        what = f"cannot be read as a GraphDef: {error}"
        raise ConversionError(what, str(path), "give a frozen graph in binary form") from error
    if not graph.node:
        raise ConversionError("holds no graph", str(path), "give a frozen graph in binary form")
    return graph


def read_saved_model(content: bytes, where: str) -> Any:
    """What a `saved_model.pb` holds, with one graph at least."""
    try:
        saved = SavedModel.FromString(content)
    except DecodeError as error:
        raise ConversionError(f"cannot be read as a SavedModel: {error}", where) from error
    if not saved.meta_graphs:
        raise ConversionError("holds no graph", where)
    return saved


def operations(graph: Any) -> Iterator[tuple[str, str]]:
    """Kind and name of every operation in a GraphDef, its functions included."""
    yield from ((node.op, node.name) for node in graph.node)
    for function in graph.library.function:
        name = function.signature.name
        yield from ((node.op, f"{name}/{node.name}") for node in function.node_def)


def as_function(
    graph: Any, wanted: Wanted, where: str
) -> tuple[Called, Any, str | None, tf.Module]:
    """A frozen graph as a function of its inputs.

    Also what goes in, which placeholder tells the mode, and what holds its weights:
    with `constants="weights"` every constant of floating point with at least one
    axis, outside of loops, becomes a variable of the name of its node.
    """
    nodes = {node.name: node for node in graph.node}
    left = [node.name for node in graph.node if node.op in _VARIABLES]
    if left:
        what = f"the graph is not frozen: {', '.join(left[:3])} are variables without values"
        raise ConversionError(what, where, "freeze it, or give the SavedModel it comes from")
    mode = next((name for name in nodes if _is_mode(nodes, name)), None)
    inputs = specifications(_inputs(wanted.inputs, nodes, mode, where))
    outputs = _outputs(wanted.outputs, nodes, where)
    holder = tf.Module()
    holder.weights = _weights(graph) if wanted.constants == "weights" else {}
    told = {mode: tf.TensorSpec([], tf.bool)} if mode else {}
    fed = {_tensor(name): spec for name, spec in {**holder.weights, **inputs, **told}.items()}

    def imported(*tensors: Any) -> Any:
        given, names = dict(zip(fed, tensors, strict=True)), [_tensor(name) for name in outputs]
        read = tf.graph_util.import_graph_def(graph, given, return_elements=names, name="")
        made = [shaped(*each) for each in zip(read, outputs.values(), strict=True)]
        return made[0] if len(made) == 1 else dict(zip(outputs, made, strict=True))

    # A loop of TF 1 does not bear what `tf.function` makes wait for one another.
    specs = [tf.TensorSpec(each.shape, each.dtype) for each in fed.values()]
    run = tf.compat.v1.wrap_function(imported, specs)

    def function(given: Any, modes: Mapping[Any, Any]) -> Any:
        tensors = given if len(inputs) > 1 else {next(iter(inputs)): given}
        values = [variable.read_value() for variable in holder.weights.values()]
        told = [tf.constant(trains) for trains in modes.values()]
        return run(*values, *(tensors[name] for name in inputs), *told)

    single = next(iter(inputs.values())) if len(inputs) == 1 else inputs
    return function, single, mode, holder


def _tensor(name: str) -> str:
    return name if ":" in name else f"{name}:0"


def _inputs(wanted: Any, nodes: Mapping[str, Any], mode: str | None, where: str) -> dict[str, Any]:
    """What goes in, by the name of the node: as wanted, or the placeholders that wait for it."""
    if isinstance(wanted, Mapping):
        given = dict(wanted)
    elif wanted is None:
        taken = _taken(nodes)
        used = [name for name in _of_kind(nodes, PLACEHOLDERS) if name in taken and name != mode]
        waiting = [name for name in used if nodes[name].op != _WITH_DEFAULT]
        given = dict.fromkeys(waiting or used)
    else:
        given = dict.fromkeys([wanted] if isinstance(wanted, str) else wanted)
    if not given:
        raise ConversionError(
            "the graph has no placeholder", where, "name its inputs= and outputs="
        )
    return {_known(name, nodes, where): spec or _spec(nodes, name) for name, spec in given.items()}


def _is_mode(nodes: Mapping[str, Any], name: str) -> bool:
    return nodes[name].op in PLACEHOLDERS and is_mode(_spec(nodes, name), name)


def _of_kind(nodes: Mapping[str, Any], kinds: Sequence[str]) -> list[str]:
    return [name for name, node in nodes.items() if node.op in kinds]


def _taken(nodes: Mapping[str, Any]) -> set[str]:
    """The names of nodes from which others take something."""
    inputs = (name for node in nodes.values() for name in node.input)
    return {name.lstrip("^").partition(":")[0] for name in inputs}


def _known(name: str, nodes: Mapping[str, Any], where: str) -> str:
    node = name.partition(":")[0]
    if node not in nodes:
        has = ", ".join(_of_kind(nodes, PLACEHOLDERS))
        raise ConversionError(f"the graph has no node {node!r}", where, f"placeholders are {has}")
    return name


def _spec(nodes: Mapping[str, Any], name: str) -> tf.TensorSpec:
    node = nodes[name.partition(":")[0]]
    if "dtype" not in node.attr:
        what = f"the shape and dtype of {name!r} are not known"
        raise ConversionError(what, "", "give inputs={name: tf.TensorSpec(shape, dtype)}")
    shape = tf.TensorShape(node.attr["shape"].shape if "shape" in node.attr else None)
    return tf.TensorSpec(shape, tf.as_dtype(node.attr["dtype"].type), node.name)


def _outputs(wanted: Any, nodes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What comes out, and its shape if that was said: as wanted, or the last node."""
    if wanted is not None:
        return {_known(name, nodes, where): shape for name, shape in named(wanted).items()}
    taken, ends = _taken(nodes), (*PLACEHOLDERS, "NoOp")
    last = [name for name, node in nodes.items() if name not in taken and node.op not in ends]
    if len(last) != 1:
        remedy = f"name them with outputs=; nothing takes {', '.join(last)}"
        raise ConversionError(f"the graph has {len(last)} outputs", where, remedy)
    return dict.fromkeys(last)


def _weights(graph: Any) -> dict[str, tf.Variable]:
    found = {}
    loops = any(node.op in LOOPS for node in graph.node)
    for node in graph.node:
        if node.op != "Const" or (loops and node.input):  # made anew in each round
            continue
        if tf.as_dtype(node.attr["dtype"].type).is_floating:
            value = tf.make_ndarray(node.attr["value"].tensor)
            if value.ndim:
                found[node.name] = tf.Variable(value, name=node.name)
    return found
