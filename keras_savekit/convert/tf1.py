"""SavedModels of TF 1, made ready for TensorFlow 2 to load.

It would load training and all, whatever that reaches for; and variables that are
references, as TF 1 had them, without their values.
Sources: tensorflow/core/ops/state_ops.cc and resource_variable_ops.cc.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.core.framework.variable_pb2 import VariableDef

_REFERENCES = ("Variable", "VariableV2")
_COLLECTIONS = ("variables", "trainable_variables", "local_variables", "model_variables")
# What a loaded graph is begun with. All else of it belongs to its training.
_BEGINNINGS = ("table_initializer", "saved_model_main_op", "legacy_init_op", "saved_model_assets")
_ASSIGNMENTS = ("Assign", "AssignVariableOp")
# What takes a reference for its first input, and takes a resource by another name.
_ON_RESOURCES = {
    "Assign": "AssignVariableOp",
    "AssignAdd": "AssignAddVariableOp",
    "AssignSub": "AssignSubVariableOp",
    "Identity": "ReadVariableOp",
    "IsVariableInitialized": "VarIsInitializedOp",
}
_READ = "/savekit_read"
_SPARSE = ("values", "indices", "dense_shape")


def serving(saved: Any) -> Any | None:
    """The one meta graph of TF 1 in a SavedModel that is to be loaded; None if it is of TF 2."""
    graphs = list(saved.meta_graphs)
    if any(graph.HasField("object_graph_def") for graph in graphs):
        return None
    return next((graph for graph in graphs if "serve" in graph.meta_info_def.tags), graphs[0])


def modernize(graph: Any) -> None:
    """Leave of a meta graph what its signatures need, with resources in place of references."""
    nodes = {node.name: node for node in graph.graph_def.node}
    references = {name for name, node in nodes.items() if node.op in _REFERENCES}
    for name in set(graph.collection_def) - {*_COLLECTIONS, *_BEGINNINGS}:
        del graph.collection_def[name]
    used = _needed(nodes, _asked(graph))
    filled = _keep_variables(graph, used, references)
    _leave_idle(nodes, used)
    needed = _needed(nodes, [*_asked(graph), *filled, *_restoring(graph)])
    kept = [node for name, node in nodes.items() if name in needed]
    kept += _replaced(kept, references)
    del graph.graph_def.node[:]
    graph.graph_def.node.extend(kept)


def _asked(graph: Any) -> Iterator[str]:
    """What is asked of a loaded graph, and what it needs before that, by name."""
    for signature in graph.signature_def.values():
        for tensor in (*signature.inputs.values(), *signature.outputs.values()):
            yield tensor.name
            yield from (getattr(tensor.coo_sparse, f"{part}_tensor_name") for part in _SPARSE)
    for name in set(graph.collection_def) & set(_BEGINNINGS):
        yield from graph.collection_def[name].node_list.value
    for asset in graph.asset_file_def:
        yield asset.tensor_info.name


def _restoring(graph: Any) -> Iterator[str]:
    yield from (graph.saver_def.filename_tensor_name, graph.saver_def.restore_op_name)


def _keep_variables(graph: Any, used: set[str], references: set[str]) -> list[str]:
    """Of the variables those that are in `used`; and the nodes that belong to them."""
    belonging = []
    for name in set(graph.collection_def) & set(_COLLECTIONS):
        held = graph.collection_def[name].bytes_list
        variables = [VariableDef.FromString(value) for value in held.value]
        kept = [each for each in variables if _node(each.variable_name) in used]
        for each in kept:
            each.is_resource |= _node(each.variable_name) in references
            belonging += [each.initializer_name, each.snapshot_name, each.initial_value_name]
        held.value[:] = [each.SerializeToString() for each in kept]
    return belonging


def _leave_idle(nodes: Mapping[str, Any], used: set[str]) -> None:
    """Let nothing wait until variables have values that are not in `used`."""
    idle = {
        f"^{name}"
        for name, node in nodes.items()
        if node.op in _ASSIGNMENTS and _node(node.input[0]) not in used
    }
    for node in nodes.values():
        node.input[:] = [name for name in node.input if name not in idle]


def _needed(nodes: Mapping[str, Any], roots: Iterable[str]) -> set[str]:
    needed: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = _node(waiting.pop())
        if name in nodes and name not in needed:
            needed.add(name)
            waiting.extend(nodes[name].input)
    return needed


def _replaced(nodes: Iterable[Any], references: set[str]) -> list[Any]:
    """Make `nodes` take resources; return the nodes that read these for the others."""
    named = {node.name: node for node in nodes}
    assigned = {
        name: _node(node.input[0])
        for name, node in named.items()
        if node.op.startswith("Assign") and _node(node.input[0]) in references
    }
    reads: dict[str, Any] = {}
    for name, node in named.items():
        if name in references:
            _become_resource(node)
            continue
        for at, given in enumerate(node.input):
            source = _node(given)
            if source in references and at == 0 and node.op in _ON_RESOURCES:
                _take_resource(node)
            elif source in references and not given.startswith("^"):
                node.input[at] = _read(named[source], source, reads)
            elif source in assigned and not given.startswith("^"):  # which gives no value now
                node.input[at] = _read(named[assigned[source]], source, reads)
        node.op = node.op.removeprefix("Ref")
    return list(reads.values())


def _become_resource(node: Any) -> None:
    node.op = "VarHandleOp"
    node.attr["shared_name"].s = node.attr["shared_name"].s or node.name.encode()
    node.attr.pop("_output_shapes", None)


def _take_resource(node: Any) -> None:
    dtype = node.attr["T" if "T" in node.attr else "dtype"].type
    node.op = _ON_RESOURCES[node.op]
    node.attr.clear()
    if node.op != "VarIsInitializedOp":
        node.attr["dtype"].type = dtype


def _read(variable: Any, after: str, reads: dict[str, Any]) -> str:
    """The name of a node that reads `variable`, once the node `after` is done."""
    read = tf.compat.v1.NodeDef(name=after + _READ, op="ReadVariableOp", input=[variable.name])
    read.attr["dtype"].CopyFrom(variable.attr["dtype"])
    if after != variable.name:
        read.input.append(f"^{after}")
    return str(reads.setdefault(read.name, read).name)


def _node(name: str) -> str:
    """The node of a tensor, or of what is only waited for."""
    return name.lstrip("^").partition(":")[0]
