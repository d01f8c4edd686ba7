"""Read graphs from files: `GraphDef` and the protocol buffers of a SavedModel.

Sources: tensorflow/core/framework/graph.proto and tensorflow/core/protobuf/saved_model.proto.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from keras_savekit.convert.nesting import is_mode, output_shapes, specifications, with_shape
from keras_savekit.convert.ops import LOOPS
from keras_savekit.convert.tracing import SourceCall, SourceOptions
from keras_savekit.errors import ConversionError

_WITH_DEFAULT = "PlaceholderWithDefault"
PLACEHOLDERS = ("Placeholder", "PlaceholderV2", _WITH_DEFAULT)
_VARIABLES = ("Variable", "VariableV2", "VarHandleOp", "AutoReloadVariable", "TemporaryVariable")


def read_graph(path: Path) -> Any:
    """Return the `GraphDef` in a `.pb` file. Raises ConversionError if there is none."""
    graph = tf.compat.v1.GraphDef()
    try:
        graph.ParseFromString(path.read_bytes())
    except (DecodeError, OSError) as error:
        what = f"cannot be read as a GraphDef: {error}"
        raise ConversionError(what, str(path), "give a frozen graph in binary form") from error
    if not graph.node:
        raise ConversionError("contains no graph", str(path), "give a frozen graph in binary form")
    return graph


def read_saved_model(content: bytes, where: str) -> Any:
    """Parse a `saved_model.pb`. Raises ConversionError if it contains no graph."""
    try:
        saved = SavedModel.FromString(content)
    except DecodeError as error:
        raise ConversionError(f"cannot be read as a SavedModel: {error}", where) from error
    if not saved.meta_graphs:
        raise ConversionError("contains no graph", where)
    return saved


def list_operations(graph: Any) -> Iterator[tuple[str, str]]:
    """Yield the kind and name of every operation in a GraphDef and its functions."""
    yield from ((node.op, node.name) for node in graph.node)
    for function in graph.library.function:
        name = function.signature.name
        yield from ((node.op, f"{name}/{node.name}") for node in function.node_def)


def as_function(
    graph: Any, options: SourceOptions, where: str
) -> tuple[SourceCall, Any, str | None, tf.Module]:
    """Return a frozen graph as a function of its inputs.

    Also returns the specification of the inputs, the placeholder that selects the
    mode, and a module with the weights. With `constants="weights"` every
    floating-point constant with at least one axis, outside of loops, becomes a
    variable with the name of its node.
    """
    nodes = {node.name: node for node in graph.node}
    variables = [node.name for node in graph.node if node.op in _VARIABLES]
    if variables:
        what = f"the graph is not frozen: {', '.join(variables[:3])} are variables without values"
        raise ConversionError(what, where, "freeze it, or give the SavedModel it comes from")
    mode = next((name for name in nodes if _is_mode(nodes, name)), None)
    inputs = specifications(_inputs(options.inputs, nodes, mode, where))
    outputs = _outputs(options.outputs, nodes, where)
    holder = tf.Module()
    holder.weights = _weights(graph) if options.constants == "weights" else {}
    mode_spec = {mode: tf.TensorSpec([], tf.bool)} if mode else {}
    fed = {_tensor(name): spec for name, spec in {**holder.weights, **inputs, **mode_spec}.items()}

    def run_graph(*tensors: Any) -> Any:
        given, names = dict(zip(fed, tensors, strict=True)), [_tensor(name) for name in outputs]
        read = tf.graph_util.import_graph_def(graph, given, return_elements=names, name="")
        results = [with_shape(*pair) for pair in zip(read, outputs.values(), strict=True)]
        return results[0] if len(results) == 1 else dict(zip(outputs, results, strict=True))

    # A loop of TF 1 does not work with the control dependencies that `tf.function` adds.
    specs = [tf.TensorSpec(spec.shape, spec.dtype) for spec in fed.values()]
    run = tf.compat.v1.wrap_function(run_graph, specs)

    def function(given: Any, modes: Mapping[Any, Any]) -> Any:
        tensors = given if len(inputs) > 1 else {next(iter(inputs)): given}
        values = [variable.read_value() for variable in holder.weights.values()]
        mode_values = [tf.constant(trains) for trains in modes.values()]
        return run(*values, *(tensors[name] for name in inputs), *mode_values)

    single = next(iter(inputs.values())) if len(inputs) == 1 else inputs
    return function, single, mode, holder


def _tensor(name: str) -> str:
    return name if ":" in name else f"{name}:0"


def _inputs(
    requested: Any, nodes: Mapping[str, Any], mode: str | None, where: str
) -> dict[str, Any]:
    """Return the inputs by node name: as requested, or the placeholders without a default."""
    if isinstance(requested, Mapping):
        given = dict(requested)
    elif requested is None:
        consumed = _consumed_names(nodes)
        used = [
            name
            for name in _names_of_kind(nodes, PLACEHOLDERS)
            if name in consumed and name != mode
        ]
        waiting = [name for name in used if nodes[name].op != _WITH_DEFAULT]
        given = dict.fromkeys(waiting or used)
    else:
        given = dict.fromkeys([requested] if isinstance(requested, str) else requested)
    if not given:
        raise ConversionError(
            "the graph has no placeholder", where, "name its inputs= and outputs="
        )
    return {
        _require_node(name, nodes, where): spec or _spec(nodes, name)
        for name, spec in given.items()
    }


def _is_mode(nodes: Mapping[str, Any], name: str) -> bool:
    return nodes[name].op in PLACEHOLDERS and is_mode(_spec(nodes, name), name)


def _names_of_kind(nodes: Mapping[str, Any], kinds: Sequence[str]) -> list[str]:
    return [name for name, node in nodes.items() if node.op in kinds]


def _consumed_names(nodes: Mapping[str, Any]) -> set[str]:
    """Return the names of nodes that are inputs of other nodes."""
    inputs = (name for node in nodes.values() for name in node.input)
    return {name.lstrip("^").partition(":")[0] for name in inputs}


def _require_node(name: str, nodes: Mapping[str, Any], where: str) -> str:
    node = name.partition(":")[0]
    if node not in nodes:
        has = ", ".join(_names_of_kind(nodes, PLACEHOLDERS))
        raise ConversionError(f"the graph has no node {node!r}", where, f"placeholders are {has}")
    return name


def _spec(nodes: Mapping[str, Any], name: str) -> tf.TensorSpec:
    node = nodes[name.partition(":")[0]]
    if "dtype" not in node.attr:
        what = f"the shape and dtype of {name!r} are not known"
        raise ConversionError(what, "", "give inputs={name: tf.TensorSpec(shape, dtype)}")
    shape = tf.TensorShape(node.attr["shape"].shape if "shape" in node.attr else None)
    return tf.TensorSpec(shape, tf.as_dtype(node.attr["dtype"].type), node.name)


def _outputs(requested: Any, nodes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the outputs with their shapes or None: as requested, or the last node."""
    if requested is not None:
        return {
            _require_node(name, nodes, where): shape
            for name, shape in output_shapes(requested).items()
        }
    consumed, ends = _consumed_names(nodes), (*PLACEHOLDERS, "NoOp")
    last = [name for name, node in nodes.items() if name not in consumed and node.op not in ends]
    if len(last) != 1:
        remedy = f"name them with outputs=; no node uses {', '.join(last)}"
        raise ConversionError(f"the graph has {len(last)} outputs", where, remedy)
    return dict.fromkeys(last)


def _weights(graph: Any) -> dict[str, tf.Variable]:
    found = {}
    loops = any(node.op in LOOPS for node in graph.node)
    for node in graph.node:
        if node.op != "Const" or (loops and node.input):  # computed in each iteration
            continue
        if tf.as_dtype(node.attr["dtype"].type).is_floating:
            value = tf.make_ndarray(node.attr["value"].tensor)
            if value.ndim:
                found[node.name] = tf.Variable(value, name=node.name)
    return found
