"""Provide the batch for depth `predict`: the user's, or a generated one.

The user's batch is saved in the run's directory, so that `savekit verify` can use it. The
file is an archive of arrays, whose names say whether they are one array, a list or a dict.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_savekit.errors import CheckpointError, DataError
from keras_savekit.formats.dtypes import parse_dtype
from keras_savekit.store.regular_file import content

PROBE = "probe.npz"
MAX_BYTES = 2**30
SEED = 0
SAMPLES = 2
AXIS_SIZES = (8, 32, 128)  # for axes without a size, in the order in which they are tried
_PLAIN = "biufcSU"


def to_bytes(batch: Any) -> bytes:
    """Encode a batch for `read`. Raise DataError if it does not consist of plain arrays.

    batch: what the model is called with: an array, or a list or a dict of arrays.
    """
    if isinstance(batch, Mapping):
        named = {f"dict/{name}": value for name, value in batch.items()}
    elif isinstance(batch, list | tuple):
        named = {f"list/{index:06d}": value for index, value in enumerate(batch)}
    else:
        named = {"array": batch}
    file = io.BytesIO()
    arrays: dict[str, Any] = {name: _plain(value, name) for name, value in named.items()}
    np.savez(file, **arrays)
    if not named or len(file.getvalue()) > MAX_BYTES:
        raise DataError(f"the probe has {len(file.getvalue())} bytes", "probe=", _REMEDY)
    return file.getvalue()


def _plain(value: Any, name: str) -> np.ndarray[Any, Any]:
    array = np.asarray(value)
    if array.dtype == object and all(isinstance(text, bytes) for text in array.flat):
        array = array.astype("S")  # TensorFlow converts its texts to such arrays
    if array.dtype.kind not in _PLAIN or array.ndim == 0:
        what = f"{name.rpartition('/')[2]} in the probe is not a batch of numbers or texts"
        raise DataError(f"{what}: {array.dtype}{list(array.shape)}", "probe=", _REMEDY)
    return array


def read(path: Path) -> Any:
    """Read the batch from a file; return None if there is no such file.

    Raises CheckpointError if `to_bytes` did not write the file.
    """
    try:
        with np.load(io.BytesIO(content(path, MAX_BYTES)), allow_pickle=False) as archive:
            named = {name: archive[name] for name in sorted(archive)}
    except FileNotFoundError:
        return None
    except Exception as error:
        raise CheckpointError(f"the probe cannot be read: {error}", str(path)) from error
    if "array" in named:
        return named["array"]
    values = {name.partition("/")[2]: value for name, value in named.items()}
    return values if any(name.startswith("dict/") for name in named) else list(values.values())


def generate_batches(inputs: Sequence[Any]) -> Iterator[list[Any]]:
    """Yield batches for inputs of these shapes and dtypes, one for each size in `AXIS_SIZES`.

    If all axes have sizes, there is one batch.
    """
    is_open = any(axis is None for tensor in inputs for axis in tensor.shape[1:])
    for size in AXIS_SIZES if is_open else AXIS_SIZES[:1]:
        generator = np.random.default_rng(SEED)
        yield [_random_array(tensor.shape, str(tensor.dtype), size, generator) for tensor in inputs]


def _random_array(
    shape: Sequence[int | None], dtype: str, size: int, generator: np.random.Generator
) -> np.ndarray[Any, Any]:
    first, *others = shape
    full = [SAMPLES if first is None else first]
    full += [size if axis is None else axis for axis in others]
    if dtype == "string":
        return generator.choice(np.array([b"a", b"b c"]), full)
    if dtype.startswith(("int", "uint", "bool")):
        return generator.integers(0, 2, full).astype(dtype)  # valid indices for any layer
    return generator.normal(size=full).astype(parse_dtype(dtype))


_REMEDY = "give what the model is called with: an array, or a list or a dict of arrays"
