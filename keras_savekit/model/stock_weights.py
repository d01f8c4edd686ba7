"""Read the weights of a `.weights.h5` file of stock Keras, by the paths of Keras's walk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from keras_savekit.base.tensors import Array
from keras_savekit.errors import MismatchError
from keras_savekit.formats.dtypes import narrow, parse_dtype
from keras_savekit.formats.hdf5 import access
from keras_savekit.model.live_variables import describe_variable, variables_by_role
from keras_savekit.model.saving_walk import group_path, list_members, read_own_values
from keras_savekit.store.read_errors import unreadable


def read_stock_weights(model: Any, path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the values in a `.weights.h5` file and the model's weights, both by path.

    Values that layers compute have no weight. Raises MismatchError, naming every
    difference, if the file does not fit the model.
    """
    live = {id(variable) for variable in variables_by_role(model)["weight"]}
    wanted: dict[str, Any] = {}
    weights: dict[str, Any] = {}
    unknown = set()  # groups of layers whose values are not known yet
    for place, member in list_members(model):
        own, complete = read_own_values(member)
        for key, value in own.items():
            name, is_weight = f"{group_path(place)}/{key}", id(value) in live
            wanted[name] = describe_variable("weight", 0, value) if is_weight else None
            weights |= {name: value} if is_weight else {}
        if not complete:
            unknown.add(group_path(place))
    found: dict[str, Array] = {}
    differences = []
    with _read_errors(path), access.open_for_reading(path) as file:
        present = _datasets(file)
        differences += [f"{name} is missing in the file" for name in wanted if name not in present]
        new = (name for name in present if name.rpartition("/")[0] in unknown)
        wanted = {**dict.fromkeys(new), **wanted}
        differences += [f"{name} is only in the file" for name in present if name not in wanted]
        for name in wanted.keys() & present.keys():
            variable, dataset = wanted[name], present[name]
            dtype = dataset.attrs.get("dtype", dataset.dtype.name)
            if variable is not None and (variable.shape, variable.dtype) != (dataset.shape, dtype):
                differences.append(
                    f"{name} is {dtype}{list(dataset.shape)} in the file, "
                    f"{variable.dtype}{list(variable.shape)} in the model"
                )
            elif not differences:
                found[name] = _value(dataset, dtype)
    if differences:
        shown = "\n  ".join(sorted(differences)[:10])
        more = f"\n  and {len(differences) - 10} more" if len(differences) > 10 else ""
        what = f"the file belongs to another architecture:\n  {shown}{more}"
        raise MismatchError(what, str(path), "nothing was changed")
    return found, weights


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    """Translate what h5py and NumPy raise over a file that this package did not write."""
    try:
        yield
    except (OSError, LookupError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        raise unreadable("cannot be read", str(path), error) from error


def _datasets(file: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith("optimizer/"):
            found[name] = item

    file.visititems(visit)
    return found


def _value(dataset: Any, dtype: str) -> Array:
    return narrow(np.asarray(dataset), parse_dtype(dtype))
