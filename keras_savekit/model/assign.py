"""Restore a checkpoint's tensors into a live model: all of them or none.

All tensors are read and compared with their digests before the first variable is assigned:
a damaged file or another architecture leaves the model unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_savekit.base.defects import DefectError
from keras_savekit.base.digests import tensor_digest
from keras_savekit.base.roles import Role
from keras_savekit.base.tensors import Array, Variable
from keras_savekit.errors import CheckpointError, MismatchError
from keras_savekit.formats.hdf5 import extract
from keras_savekit.formats.registry import format_of
from keras_savekit.model import differences
from keras_savekit.model.layer_loading import (
    Extras,
    any_loads_itself,
    load_layers,
    rollback_on_error,
)
from keras_savekit.model.live_variables import describe_variable, variables_by_role
from keras_savekit.store.manifest import Manifest, split_place
from keras_savekit.store.read_errors import unreadable
from keras_savekit.store.regular_file import resolve_inside

Tensors = Mapping[tuple[Role, int], Array]


def read_tensors(directory: Path, manifest: Manifest) -> Tensors:
    """Read every variable of a checkpoint, and compare it with the digest taken from memory.

    Raises CheckpointError if a file is damaged or a digest differs, UnverifiableError if
    the system fails.
    """
    known = {entry.name for entry in manifest.files}
    wanted: dict[str, list[tuple[str, Any]]] = {}
    for tensor in manifest.tensors:
        if not tensor.places:
            raise CheckpointError(f"{tensor.name} is stored nowhere", str(directory))
        name, dataset = split_place(tensor.places[0])
        if name not in known:
            what = f"{tensor.name} is said to be in a file that the manifest does not list"
            raise CheckpointError(what, f"{directory}:{name}")
        wanted.setdefault(name, []).append((dataset, tensor))
    found: dict[tuple[Role, int], Array] = {}
    for name, entries in wanted.items():
        file = _resolve(directory, name)
        base = format_of(file).hdf5_begins(file)
        paths = [(dataset, tensor.dtype) for dataset, tensor in entries]
        for (dataset, tensor), value in zip(entries, extract.read(file, paths, base), strict=True):
            if value.shape != tensor.shape or tensor_digest(value) != tensor.digest:
                raise CheckpointError(
                    f"{tensor.name} differs from the manifest", f"{directory / name}:/{dataset}"
                )
            found[tensor.role, tensor.index] = value
    return found


def _resolve(directory: Path, name: str) -> Path:
    try:
        return resolve_inside(directory, name)
    except DefectError as error:
        raise CheckpointError(error.what, f"{directory}:{name}") from error
    except OSError as error:
        raise unreadable("cannot be read", f"{directory}:{name}", error) from error


def find_differences(
    model: Any, manifest: Manifest, roles: Iterable[Role]
) -> dict[Role, list[str]]:
    """Describe, by role, what of a checkpoint does not fit the model; empty if all of it fits."""
    live = variables_by_role(model)
    by_role = {
        role: differences.compare_variables(_saved(manifest, role), _describe(role, live[role]))
        for role in roles
    }
    return {role: found for role, found in by_role.items() if found}


def require_same(model: Any, manifest: Manifest, roles: Iterable[Role], where: str) -> None:
    """Raise MismatchError, naming what differs, unless the checkpoint fits the model."""
    for role, found in find_differences(model, manifest, roles).items():
        raise MismatchError(describe_mismatch(role, found), where, _REMEDY)


def describe_mismatch(role: Role, found: Sequence[str]) -> str:
    """Say which part differs, with the differences on lines of their own."""
    return f"the checkpoint belongs to another {_PARTS[role]}:{differences.format_list(found)}"


def match_weights(model: Any, manifest: Manifest, tensors: Tensors) -> tuple[Tensors, int]:
    """Return the weights in the model's order, and how many of them are the checkpoint's.

    A weight without a match in the checkpoint keeps its value.
    """
    live = variables_by_role(model)["weight"]
    found = differences.match_variables(_saved(manifest, "weight"), _describe("weight", live))
    weights: dict[tuple[Role, int], Array] = {
        ("weight", index): variable.numpy() if match is None else tensors["weight", match]
        for index, (variable, match) in enumerate(zip(live, found, strict=True))
    }
    return weights, sum(match is not None for match in found)


def _saved(manifest: Manifest, role: Role) -> list[Variable]:
    return [
        Variable(role, entry.index, entry.name, tuple(entry.shape), entry.dtype)
        for entry in manifest.tensors
        if entry.role == role
    ]


def _describe(role: Role, live: Sequence[Any]) -> list[Variable]:
    return [describe_variable(role, index, variable) for index, variable in enumerate(live)]


_REMEDY = "nothing was changed; use another directory, or the model that was trained here"
_PARTS = {
    "weight": "architecture",
    "optimizer": "optimizer",
    "metric": "set of metrics",
    "seed": "set of seed generators and states",
}


def computed_values(manifest: Manifest, tensors: Tensors) -> dict[str, Array]:
    """The values that layers computed when they were saved, by path in Keras's walk."""
    return {
        entry.name: tensors[entry.role, entry.index]
        for entry in manifest.tensors
        if entry.role == "computed" and (entry.role, entry.index) in tensors
    }


def restore_variables(
    model: Any, tensors: Tensors, roles: Sequence[Role], extras: Extras, where: str
) -> None:
    """Set the model's variables of these roles, and let layers do their part of loading.

    For a checkpoint that `require_same` accepts. Every variable then has its bits from the
    checkpoint, also if its layer changed it. Without layers that load themselves, variables are
    only assigned.

    Raises MismatchError, naming the layers, if one refuses what it saved. The model is
    then unchanged.
    """
    if not extras.assets and not any_loads_itself(model):
        assign_variables(model, tensors, roles)
        return
    with rollback_on_error(model):
        assign_variables(model, tensors, roles)
        live = variables_by_role(model)
        values = {
            id(variable): tensors[role, index]
            for role in roles
            for index, variable in enumerate(live[role])
        }
        refused = load_layers(model, values, extras)
        if not refused and any(
            len(live[role]) != len(variables_by_role(model)[role]) for role in roles
        ):
            refused = ["loading created other variables than the model had"]
        if refused:
            what = "layers refuse what they saved:\n  " + "\n  ".join(refused)
            raise MismatchError(what, where, "the model is unchanged")
        assign_variables(model, tensors, roles)


def assign_variables(model: Any, tensors: Tensors, roles: Iterable[Role]) -> None:
    """Set the model's variables of these roles. Call `require_same` first."""
    live = variables_by_role(model)
    for role in roles:
        for index, variable in enumerate(live[role]):
            variable.assign(tensors[role, index])
