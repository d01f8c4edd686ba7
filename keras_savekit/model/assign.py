"""A checkpoint's tensors go back into a live model: all of them or none.

Everything is read, digested and compared before the first variable is
assigned, so that a damaged file or another architecture leaves the model as
it was.
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
from keras_savekit.model.layer_loading import Extras, all_or_none, any_loads_itself, load
from keras_savekit.model.structure import describe, variables_by_role
from keras_savekit.store.manifest import Manifest, split_place
from keras_savekit.store.read_errors import unreadable
from keras_savekit.store.regular_file import inside

Tensors = Mapping[tuple[Role, int], Array]


def read_tensors(directory: Path, manifest: Manifest) -> Tensors:
    """Every variable of a checkpoint, each equal to the digest taken when it was in memory.

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
            what = f"{tensor.name} is said to be in a file the manifest does not know"
            raise CheckpointError(what, f"{directory}:{name}")
        wanted.setdefault(name, []).append((dataset, tensor))
    found: dict[tuple[Role, int], Array] = {}
    for name, entries in wanted.items():
        file = _plain(directory, name)
        base = format_of(file).hdf5_begins(file)
        paths = [(dataset, tensor.dtype) for dataset, tensor in entries]
        for (dataset, tensor), value in zip(entries, extract.read(file, paths, base), strict=True):
            if value.shape != tensor.shape or tensor_digest(value) != tensor.digest:
                raise CheckpointError(
                    f"{tensor.name} differs from the manifest", f"{directory / name}:/{dataset}"
                )
            found[tensor.role, tensor.index] = value
    return found


def _plain(directory: Path, name: str) -> Path:
    try:
        return inside(directory, name)
    except DefectError as error:
        raise CheckpointError(error.what, f"{directory}:{name}") from error
    except OSError as error:
        raise unreadable("cannot be read", f"{directory}:{name}", error) from error


def differing(model: Any, manifest: Manifest, roles: Iterable[Role]) -> dict[Role, list[str]]:
    """What of a checkpoint does not fit the model, in words, by role; empty if all of it fits."""
    live = variables_by_role(model)
    found = {
        role: differences.of_variables(_saved(manifest, role), _described(role, live[role]))
        for role in roles
    }
    return {role: each for role, each in found.items() if each}


def require_same(model: Any, manifest: Manifest, roles: Iterable[Role], where: str) -> None:
    """Raise MismatchError, naming what differs, unless the checkpoint fits the model."""
    for role, found in differing(model, manifest, roles).items():
        raise MismatchError(belongs(role, found), where, REMEDY)


def belongs(role: Role, found: Sequence[str]) -> str:
    """What is wrong, for a message."""
    return f"the checkpoint belongs to another {_BELONGS[role]}:{differences.listed(found)}"


def weights_that_fit(model: Any, manifest: Manifest, tensors: Tensors) -> tuple[Tensors, int]:
    """The weights, in the model's order, and how many of them are the checkpoint's.

    A weight that the checkpoint has no partner for keeps the value it has.
    """
    live = variables_by_role(model)["weight"]
    found = differences.partners(_saved(manifest, "weight"), _described("weight", live))
    taken: dict[tuple[Role, int], Array] = {
        ("weight", index): variable.numpy() if partner is None else tensors["weight", partner]
        for index, (variable, partner) in enumerate(zip(live, found, strict=True))
    }
    return taken, sum(partner is not None for partner in found)


def _saved(manifest: Manifest, role: Role) -> list[Variable]:
    return [
        Variable(role, entry.index, entry.name, tuple(entry.shape), entry.dtype)
        for entry in manifest.tensors
        if entry.role == role
    ]


def _described(role: Role, live: Sequence[Any]) -> list[Variable]:
    return [describe(role, index, variable) for index, variable in enumerate(live)]


REMEDY = "nothing was changed; use another directory, or the model that was trained here"
_BELONGS = {
    "weight": "architecture",
    "optimizer": "optimizer",
    "metric": "set of metrics",
    "seed": "set of seed generators and states",
}


def computed_of(manifest: Manifest, tensors: Tensors) -> dict[str, Array]:
    """What layers computed when they were saved, by path in Keras's walk."""
    return {
        entry.name: tensors[entry.role, entry.index]
        for entry in manifest.tensors
        if entry.role == "computed" and (entry.role, entry.index) in tensors
    }


def set_all(
    model: Any, tensors: Tensors, roles: Sequence[Role], extras: Extras, where: str
) -> None:
    """Set the model's variables of these roles, and let layers do their part of loading.

    For a checkpoint that `require_same` accepts. Every variable then has its bits from the
    checkpoint, whatever its layer did. Models without layers that load themselves are
    only assigned to.

    Raises MismatchError, naming the layers, if one does not take what it saved; the model
    is then unchanged.
    """
    if not extras.assets and not any_loads_itself(model):
        assign(model, tensors, roles)
        return
    with all_or_none(model):
        assign(model, tensors, roles)
        live = variables_by_role(model)
        values = {
            id(variable): tensors[role, index]
            for role in roles
            for index, variable in enumerate(live[role])
        }
        refused = load(model, values, extras)
        if not refused and any(len(live[r]) != len(variables_by_role(model)[r]) for r in roles):
            refused = ["loading made other variables than the model had"]
        if refused:
            what = "layers did not take what they saved:\n  " + "\n  ".join(refused)
            raise MismatchError(what, where, "the model is unchanged")
        assign(model, tensors, roles)


def assign(model: Any, tensors: Tensors, roles: Iterable[Role]) -> None:
    """Set the model's variables of these roles. Check with `require_same` before."""
    live = variables_by_role(model)
    for role in roles:
        for index, variable in enumerate(live[role]):
            variable.assign(tensors[role, index])
