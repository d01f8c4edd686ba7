"""Convert a traced source to self-contained bytes, and the bytes to functions.

The bytes are a zip of a SavedModel without its variables: `saved_model.pb` and
the assets of lookup tables. Each variable's node has the name of a weight, and
the caller of `Program.load` passes the variables by these names. This module
knows no layers.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from keras_savekit.convert.captures import Capture
from keras_savekit.convert.frozen import list_operations, read_saved_model
from keras_savekit.convert.ops import require_allowed, require_stateless
from keras_savekit.convert.tracing import TracedSource
from keras_savekit.errors import ConversionError

_GRAPH = "saved_model.pb"
_MODES = ("inference", "training")
_MAX_MESSAGE = 300
_MAX_BYTES = 2**31  # no protocol buffer is larger


@dataclass(frozen=True, slots=True)
class Weight:
    """A variable of a program. Its name is that of the captured variable."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    trainable: bool


@dataclass(frozen=True, slots=True)
class Program:
    """The bytes of functions with named variables. Equal programs have equal digests."""

    content: bytes

    @property
    def digest(self) -> str:
        """The SHA-256 of the bytes."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def weights(self) -> list[Weight]:
        """The variables in the order of the source."""
        nodes = self._objects.nodes
        listed = nodes[_child(nodes[0], "weights")] if _has(nodes[0], "weights") else None
        ordered = sorted(listed.children, key=lambda child: int(child.local_name)) if listed else []
        return [_weight(nodes[child.node_id].variable) for child in ordered]

    @property
    def operations(self) -> Iterator[tuple[str, str]]:
        """The kind and name of each operation."""
        return list_operations(self._graph.graph_def)

    @property
    def _graph(self) -> Any:
        with self._archive() as archive:
            return read_saved_model(archive.read(_GRAPH), "the graph of the layer").meta_graphs[0]

    @property
    def _objects(self) -> Any:
        return self._graph.object_graph_def

    @contextmanager
    def _archive(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(io.BytesIO(self.content)) as archive:
                yield archive
        except (zipfile.BadZipFile, KeyError) as error:
            raise ConversionError(f"the graph of a layer is damaged: {error}") from error

    def load(self, variables: Mapping[str, Any]) -> Any:
        """Return an object with the functions `inference` and `training` on these variables.

        Raises ConversionError if an operation may not run, before any runs.
        """
        require_allowed(self.operations, "the graph of a layer", checkpoints=False)

        def creator(next_creator: Any, **keywords: Any) -> Any:
            name = str(keywords.get("name"))
            return variables[name] if name in variables else next_creator(**keywords)

        options = tf.saved_model.LoadOptions(experimental_skip_checkpoint=True)
        with tempfile.TemporaryDirectory() as folder, self._archive() as archive:
            _extract(archive, Path(folder))
            with tf.init_scope(), tf.variable_creator_scope(creator):
                return tf.saved_model.load(folder, options=options)


def build_program(traced: TracedSource, weights: Sequence[Capture]) -> Program:
    """Return the functions of `traced` as bytes, with the names of `weights`.

    Raises ConversionError if the source has a state that no file can contain.
    """
    root = tf.Module()
    root.weights = [weight.variable for weight in weights]
    resources = [
        (value, paths)
        for value, paths in traced.reached.values()
        if not isinstance(value, tf.Variable)
    ]
    root.resources = [value for value, _ in resources]
    root.inference = traced.inference
    if traced.training is not None:
        root.training = traced.training
    with tempfile.TemporaryDirectory() as folder:
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
        try:
            tf.saved_model.save(root, folder, signatures={}, options=options)
        except (AssertionError, ValueError, TypeError, NotImplementedError) as error:
            message = " ".join(str(error).split())[:_MAX_MESSAGE]
            what = f"TensorFlow cannot save its functions: {message}"
            raise ConversionError(what, "", "see the cause below") from error
        graphs = SavedModel.FromString((Path(folder) / _GRAPH).read_bytes())
        _require_no_contents(graphs.meta_graphs[0], [paths[0] for _, paths in resources])
        _strip(graphs.meta_graphs[0], [weight.name for weight in weights])
        files = {_GRAPH: graphs.SerializeToString(deterministic=True)}
        for asset in sorted((Path(folder) / "assets").iterdir()):
            files[f"assets/{asset.name}"] = asset.read_bytes()
    program = Program(_zip(files))
    require_allowed(program.operations, "", checkpoints=False)
    return program


def _strip(graph: Any, names: Sequence[str]) -> None:
    """Remove all but the functions and constants, and name the variables."""
    objects = graph.object_graph_def
    constants = {node.constant.operation for node in objects.nodes if node.HasField("constant")}
    kept = [node for node in graph.graph_def.node if node.name in constants]
    del graph.graph_def.node[:]
    graph.graph_def.node.extend(kept)
    graph.ClearField("saver_def")
    graph.ClearField("signature_def")
    graph.ClearField("collection_def")
    if _has(objects.nodes[0], "weights"):
        for child in objects.nodes[_child(objects.nodes[0], "weights")].children:
            objects.nodes[child.node_id].variable.name = names[int(child.local_name)]
            objects.nodes[child.node_id].variable.device = ""
    called = _reachable(graph.graph_def.library, objects.concrete_functions)
    left = [item for item in graph.graph_def.library.function if item.signature.name in called]
    del graph.graph_def.library.function[:]
    graph.graph_def.library.function.extend(left)


def _require_no_contents(graph: Any, paths: Sequence[str]) -> None:
    """Raise ConversionError for a resource with more content than its initializer has.

    paths: the paths to the resources of the root.
    """
    nodes = graph.object_graph_def.nodes
    listed = nodes[_child(nodes[0], "resources")].children if paths else []
    named = {child.node_id: paths[int(child.local_name)] for child in listed}
    for number, node in enumerate(nodes):
        if not node.HasField("variable") and len(node.saveable_objects):
            raise ConversionError(
                "the source has a resource whose content would be lost, such as a mutable table",
                named.get(number) or ", ".join(sorted(node.saveable_objects)),
                "use a tf.lookup.StaticHashTable, or keep it outside of the model",
            )
    library = graph.graph_def.library
    roots = [nodes[child.node_id] for child in nodes[0].children if child.local_name in _MODES]
    called = _reachable(
        library, [root.bare_concrete_function.concrete_function_name for root in roots]
    )
    for function in library.function:
        if function.signature.name in called:
            require_stateless((node.op, node.name) for node in function.node_def)


def _reachable(library: Any, roots: Collection[str]) -> set[str]:
    """Return the names of functions that `roots` may call, with their gradients."""
    functions = {item.signature.name: item for item in library.function}
    gradients = {item.function_name: item.gradient_func for item in library.gradient}
    reached: set[str] = set()
    waiting = [name for name in functions if name in roots]
    waiting += [item.gradient_func for item in library.registered_gradients]
    while waiting:
        name = waiting.pop()
        if name in reached or name not in functions:
            continue
        reached.add(name)
        waiting += [gradients[name]] if name in gradients else []
        for node in functions[name].node_def:
            waiting.append(node.op)
            for attribute in node.attr.values():
                waiting.append(attribute.func.name)
                waiting += [item.name for item in attribute.list.func]
    return reached


def _weight(variable: Any) -> Weight:
    shape = tuple(axis.size for axis in variable.shape.dim)
    return Weight(variable.name, shape, tf.as_dtype(variable.dtype).name, variable.trainable)


def _has(node: Any, name: str) -> bool:
    return any(child.local_name == name for child in node.children)


def _child(node: Any, name: str) -> int:
    return next(int(child.node_id) for child in node.children if child.local_name == name)


def _zip(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _extract(archive: zipfile.ZipFile, folder: Path) -> None:
    """Write the graph and assets of the archive into the folder.

    Raises ConversionError for a file with another name, and for more than `_MAX_BYTES`.
    """
    if sum(member.file_size for member in archive.infolist()) > _MAX_BYTES:
        raise ConversionError("the graph of a layer is larger than any graph can be")
    for member in archive.infolist():
        parts = Path(member.filename).parts
        if member.filename != _GRAPH and (parts[:-1] != ("assets",) or parts[-1] == ".."):
            raise ConversionError(
                f"the graph of a layer contains an unknown file {member.filename!r}"
            )
        target = folder.joinpath(*parts)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(archive.read(member))
