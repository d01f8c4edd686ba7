"""Rewrite SavedModels of TF 1 so that TensorFlow 2 loads them.

Without this, TensorFlow 2 loads the operations of the training too, and loads
reference variables of TF 1 without their values.
Sources: tensorflow/core/ops/state_ops.cc and resource_variable_ops.cc.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.core.framework.variable_pb2 import VariableDef

_REFERENCES = ("Variable", "VariableV2")
_COLLECTIONS = ("variables", "trainable_variables", "local_variables", "model_variables")
# The collections that initialize a loaded graph. Others belong to its training.
_INITIALIZERS = ("table_initializer", "saved_model_main_op", "legacy_init_op", "saved_model_assets")
_ASSIGNMENTS = ("Assign", "AssignVariableOp")
# Operations on a reference as first input, and the same operation on a resource.
_ON_RESOURCES = {
    "Assign": "AssignVariableOp",
    "AssignAdd": "AssignAddVariableOp",
    "AssignSub": "AssignSubVariableOp",
    "Identity": "ReadVariableOp",
    "IsVariableInitialized": "VarIsInitializedOp",
}
_READ = "/savekit_read"
_SPARSE = ("values", "indices", "dense_shape")


def serving_graph(saved: Any) -> Any | None:
    """Return the meta graph of TF 1 to load; None for a SavedModel of TF 2."""
    graphs = list(saved.meta_graphs)
    if any(graph.HasField("object_graph_def") for graph in graphs):
        return None
    return next((graph for graph in graphs if "serve" in graph.meta_info_def.tags), graphs[0])


def modernize(graph: Any) -> None:
    """Keep only what the signatures need, and replace references by resources."""
    nodes = {node.name: node for node in graph.graph_def.node}
    references = {name for name, node in nodes.items() if node.op in _REFERENCES}
    for name in set(graph.collection_def) - {*_COLLECTIONS, *_INITIALIZERS}:
        del graph.collection_def[name]
    used = _with_dependencies(nodes, _signature_tensors(graph))
    filled = _keep_variables(graph, used, references)
    _drop_waits_for_unused(nodes, used)
    needed = _with_dependencies(
        nodes, [*_signature_tensors(graph), *filled, *_restore_nodes(graph)]
    )
    kept = [node for name, node in nodes.items() if name in needed]
    kept += _replace_references(kept, references)
    del graph.graph_def.node[:]
    graph.graph_def.node.extend(kept)


def _signature_tensors(graph: Any) -> Iterator[str]:
    """Yield the tensors of the signatures, and what must run before them, by name."""
    for signature in graph.signature_def.values():
        for tensor in (*signature.inputs.values(), *signature.outputs.values()):
            yield tensor.name
            yield from (getattr(tensor.coo_sparse, f"{part}_tensor_name") for part in _SPARSE)
    for name in set(graph.collection_def) & set(_INITIALIZERS):
        yield from graph.collection_def[name].node_list.value
    for asset in graph.asset_file_def:
        yield asset.tensor_info.name


def _restore_nodes(graph: Any) -> Iterator[str]:
    yield from (graph.saver_def.filename_tensor_name, graph.saver_def.restore_op_name)


def _keep_variables(graph: Any, used: set[str], references: set[str]) -> list[str]:
    """Keep the variables in `used`, and return the nodes that belong to them."""
    nodes = []
    for name in set(graph.collection_def) & set(_COLLECTIONS):
        stored = graph.collection_def[name].bytes_list
        variables = [VariableDef.FromString(value) for value in stored.value]
        kept = [variable for variable in variables if _node_name(variable.variable_name) in used]
        for variable in kept:
            variable.is_resource |= _node_name(variable.variable_name) in references
            nodes += [
                variable.initializer_name,
                variable.snapshot_name,
                variable.initial_value_name,
            ]
        stored.value[:] = [variable.SerializeToString() for variable in kept]
    return nodes


def _drop_waits_for_unused(nodes: Mapping[str, Any], used: set[str]) -> None:
    """Remove control inputs that wait for assignments to variables not in `used`."""
    idle = {
        f"^{name}"
        for name, node in nodes.items()
        if node.op in _ASSIGNMENTS and _node_name(node.input[0]) not in used
    }
    for node in nodes.values():
        node.input[:] = [name for name in node.input if name not in idle]


def _with_dependencies(nodes: Mapping[str, Any], roots: Iterable[str]) -> set[str]:
    """Return the names of `roots` and of all nodes that they need."""
    needed: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = _node_name(waiting.pop())
        if name in nodes and name not in needed:
            needed.add(name)
            waiting.extend(nodes[name].input)
    return needed


def _replace_references(nodes: Iterable[Any], references: set[str]) -> list[Any]:
    """Make `nodes` use resources, and return the new nodes that read the resources."""
    named = {node.name: node for node in nodes}
    assigned = {
        name: _node_name(node.input[0])
        for name, node in named.items()
        if node.op.startswith("Assign") and _node_name(node.input[0]) in references
    }
    reads: dict[str, Any] = {}
    for name, node in named.items():
        if name in references:
            _become_resource(node)
            continue
        for at, given in enumerate(node.input):
            source = _node_name(given)
            if source in references and at == 0 and node.op in _ON_RESOURCES:
                _take_resource(node)
            elif source in references and not given.startswith("^"):
                node.input[at] = _read_node(named[source], source, reads)
            elif source in assigned and not given.startswith("^"):  # it returns no value now
                node.input[at] = _read_node(named[assigned[source]], source, reads)
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


def _read_node(variable: Any, after: str, reads: dict[str, Any]) -> str:
    """Return the name of a node that reads `variable` after the node `after` ran."""
    read = tf.compat.v1.NodeDef(name=after + _READ, op="ReadVariableOp", input=[variable.name])
    read.attr["dtype"].CopyFrom(variable.attr["dtype"])
    if after != variable.name:
        read.input.append(f"^{after}")
    return str(reads.setdefault(read.name, read).name)


def _node_name(name: str) -> str:
    """Return the node of a tensor or of a control input."""
    return name.lstrip("^").partition(":")[0]
