"""Write and read `state.h5`: what a resume needs and no Keras file contains.

It contains the variables that the model file does not, such as seed generators and metrics,
and a JSON text with the position in training and the states of callbacks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xxhash

from keras_savekit.base.defects import DefectError
from keras_savekit.base.tensors import Array, Blueprint
from keras_savekit.errors import CheckpointError
from keras_savekit.formats.hdf5 import access
from keras_savekit.formats.hdf5.datasets import own_dataset, require_own_data
from keras_savekit.formats.hdf5.template import Dataset, Layout
from keras_savekit.store.manifest import TensorEntry
from keras_savekit.store.read_errors import unreadable

STATE_FILE = "state.h5"
STATE_DATASET = "training_state"
STATE_FORMAT = 1
ASSETS = "assets"
_PADDED_TO = 4096  # bytes; JSON texts of similar lengths then use the same template


def layout(blueprint: Blueprint, positions: Iterable[int], state_position: int) -> Layout:
    """Return the layout for variables at `positions` and the JSON state at `state_position`."""
    datasets = (
        Dataset(STATE_DATASET, state_position),
        *variables(blueprint, positions),
        *assets(blueprint, state_position + 1),
    )
    return Layout({"": {"savekit_state": str(STATE_FORMAT)}}, datasets)


def variables(
    blueprint: Blueprint, positions: Iterable[int], prefix: str = ""
) -> Iterator[Dataset]:
    """Yield a dataset for each variable at `positions`, named by role and index."""
    for position in positions:
        variable = blueprint.variables[position]
        dtype = "V2" if variable.dtype == "bfloat16" else None
        attributes = {"path": variable.name, "dtype": variable.dtype}
        path = f"{prefix}{variable.role}/{variable.index:06d}"
        yield Dataset(path, position, dtype, attributes)


def assets(blueprint: Blueprint, first: int, prefix: str = "") -> Iterator[Dataset]:
    """Yield a dataset for each asset; their values are at `first` and the positions after it."""
    for number, name in enumerate(blueprint.assets):
        yield Dataset(f"{prefix}{ASSETS}/{name}", first + number)


def asset_values(blueprint: Blueprint) -> list[Array]:
    """Return the values for the datasets of `assets`."""
    return [np.frombuffer(content, np.uint8) for content in blueprint.assets.values()]


def asset_entries(
    blueprint: Blueprint, prefix: str = "", file: str = ""
) -> tuple[TensorEntry, ...]:
    """Return the manifest's entries of the assets in a file."""
    return tuple(
        TensorEntry(
            role="asset",
            index=number,
            name=name,
            shape=(len(content),),
            dtype="uint8",
            digest=xxhash.xxh3_128_hexdigest(content),
            places=(f"{file}:/{prefix}{ASSETS}/{name}",),
        )
        for number, (name, content) in enumerate(blueprint.assets.items())
    )


def read_assets(path: Path, prefix: str = "") -> dict[str, bytes]:
    """Read the assets in a file, by path. Raise CheckpointError if it cannot be read."""
    found: dict[str, bytes] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            require_own_data(item)
            found[name] = bytes(np.asarray(item))

    try:
        with access.open_for_reading(path) as file:
            if f"{prefix}{ASSETS}" in file:
                file[f"{prefix}{ASSETS}"].visititems(visit)
    except DefectError as error:
        raise CheckpointError(f"an asset {error.what}", str(path)) from error
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        raise unreadable("its assets cannot be read", str(path), error) from error
    return found


def encode(state: Mapping[str, Any]) -> Array:
    """Encode JSON values as the bytes of a dataset. Arrays and tensors become lists.

    NaN and infinities are written as Python writes them.
    """
    text = json.dumps(state, default=lambda value: np.asarray(value).tolist()).encode()
    return np.frombuffer(text + b" " * (-len(text) % _PADDED_TO), dtype=np.uint8)


def read(path: Path) -> dict[str, Any]:
    """Read the JSON state from a `state.h5`. Raise CheckpointError if it cannot be read."""
    try:
        with access.open_for_reading(path) as file:
            text = bytes(np.asarray(own_dataset(file, STATE_DATASET)))
        state = json.loads(text)
    except DefectError as error:
        raise CheckpointError(f"the training state {error.what}", str(path)) from error
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        raise unreadable("the training state cannot be read", str(path), error) from error
    if not isinstance(state, dict):
        raise CheckpointError("the training state is not a JSON object", str(path))
    return state
