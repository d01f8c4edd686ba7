"""The batch that depth `predict` asks a model with: given by the user, or generate_batches.

A given one lies in the run's directory, so that `savekit verify` has it too: an
archive of plain arrays, whose names say how they belong together.
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
AXIS_SIZES = (8, 32, 128)  # sizes of axes that have none; the first that a model takes
_PLAIN = "biufcSU"


def to_bytes(batch: Any) -> bytes:
    """A batch as `read` gives it back. Raises DataError for what is no batch of plain arrays.

    batch: what the model is called with: an array, or a list or a dict of them.
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
    if array.dtype == object and all(isinstance(each, bytes) for each in array.flat):
        array = array.astype("S")  # what TensorFlow makes of its texts
    if array.dtype.kind not in _PLAIN or array.ndim == 0:
        what = f"{name.rpartition('/')[2]} in the probe is no batch of numbers or texts"
        raise DataError(f"{what}: {array.dtype}{list(array.shape)}", "probe=", _REMEDY)
    return array


def read(path: Path) -> Any:
    """The batch in a file; None if there is no such file.

    Raises CheckpointError if it is none of ours.
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
    """Batches for inputs of these shapes and dtypes, one for each size of axes that have none."""
    opens = any(axis is None for each in inputs for axis in each.shape[1:])
    for size in AXIS_SIZES if opens else AXIS_SIZES[:1]:
        generator = np.random.default_rng(SEED)
        yield [_drawn(each.shape, str(each.dtype), size, generator) for each in inputs]


def _drawn(
    shape: Sequence[int | None], dtype: str, size: int, generator: np.random.Generator
) -> np.ndarray[Any, Any]:
    first, *others = shape
    full = [SAMPLES if first is None else first]
    full += [size if each is None else each for each in others]
    if dtype == "string":
        return generator.choice(np.array([b"a", b"b c"]), full)
    if dtype.startswith(("int", "uint", "bool")):
        return generator.integers(0, 2, full).astype(dtype)  # any index is in range
    return generator.normal(size=full).astype(parse_dtype(dtype))


_REMEDY = "give what the model is called with: an array, or a list or a dict of arrays"
