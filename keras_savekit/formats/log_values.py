"""Convert the logs that Keras and the user's code report: floats, arrays, tensors, objects.

No other module looks at reported values.

`readable_logs` returns logs for triggers, rules and manifests; see `base.logs`.
`encode_logs` returns JSON values for the training state, and `decode_logs` returns the same
logs from them, arrays to the last bit. Values that a target does not support become text.
No reported value makes these functions raise.
"""

from __future__ import annotations

import base64
import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from keras_savekit.base.logs import Logs, LogValue
from keras_savekit.base.moment import MOST_NAMES
from keras_savekit.base.tensors import Array
from keras_savekit.formats import dtypes
from keras_savekit.store.regular_file import as_text

MOST_VALUES = 50_000  # in arrays, lists and texts, so that a manifest is small enough to be read
_MAX_DEPTH = 20
_LARGEST_INT = 1024  # bits
_PER_TEXT = 16  # characters that count as one value

_words = reprlib.Repr()
_words.maxstring = _words.maxother = 200


@dataclass(frozen=True, slots=True)
class Readable:
    """Logs for triggers, rules and manifests.

    notes: name to a sentence that says why its value is only text.
    """

    logs: Logs
    notes: Mapping[str, str] = field(default_factory=dict)


def readable_logs(reported: Mapping[Any, Any]) -> Readable:
    """Convert logs for triggers, rules and manifests."""
    if all(type(value) is float for value in reported.values()) and len(reported) <= MOST_NAMES:
        return Readable({_name(name): value for name, value in reported.items()})
    reader = _Reader()
    logs: dict[str, LogValue] = {}
    notes: dict[str, str] = {}
    for key, value in list(reported.items())[:MOST_NAMES]:
        name = _name(key)
        left = reader.left
        try:
            logs[name] = reader.read(value, 0)
        except _TooLargeError:
            reader.left = left
            logs[name] = _description(value)
            notes[name] = (
                f"{name} is too large for a manifest ({logs[name]}): triggers and rules cannot"
                " look at it; the history that a resume restores contains it"
            )
        except Exception:  # noqa: BLE001 - no value in a log may stop the training
            reader.foreign.append(_kind(value))
            logs[name] = _text(value)
        if reader.foreign:
            notes[name] = (
                f"{name} is or contains a value of type {reader.foreign[0]}, which JSON does not"
                " have: it is kept as text"
            )
            reader.foreign.clear()
    if len(reported) > MOST_NAMES:
        notes[""] = f"of {len(reported)} metrics only {MOST_NAMES} are kept in manifests"
    return Readable(logs, notes)


def encode_logs(reported: Mapping[Any, Any]) -> dict[str, Any]:
    """Convert logs to JSON values, from which `decode_logs` returns the same logs."""
    found = {}
    for key, value in reported.items():
        try:
            found[_name(key)] = _encode(value, 0)
        except Exception:  # noqa: BLE001, PERF203 - no value in a log may stop the training
            found[_name(key)] = _text(value)
    return found


def decode_logs(
    saved: Mapping[str, Any], tensor: Callable[[Array], Any] = lambda array: array
) -> dict[str, Any]:
    """Return the logs that `encode_logs` converted. Raise ValueError if it did not make `saved`.

    tensor: converts an array to a tensor.
    """
    try:
        return {name: _decode(value, tensor) for name, value in saved.items()}
    except (
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
        MemoryError,
    ) as error:
        raise ValueError(f"not logs: {type(error).__name__}: {error}") from error


class _TooLargeError(Exception):
    pass


class _Reader:
    """Converts one value after another, and counts the values in them.

    left: how many values may still follow.
    foreign: the types of values that became text.
    """

    def __init__(self) -> None:
        self.left = MOST_VALUES
        self.foreign: list[str] = []

    def read(self, value: Any, depth: int) -> LogValue:
        """Convert a value. Raise _TooLargeError, or any error of the value's own code."""
        if type(value) is float or value is None or isinstance(value, bool):
            return value
        if depth > _MAX_DEPTH:
            raise _TooLargeError
        array = _as_array(value)
        if array is not None:
            return self._array(array, depth)
        if isinstance(value, str):
            self._spend(len(value) // _PER_TEXT)
            return as_text(value)
        if isinstance(value, float):
            return float(value)
        if isinstance(value, int) and value.bit_length() <= _LARGEST_INT:
            return int(value)
        if isinstance(value, Mapping):
            self._spend(len(value))
            return {_name(key): self.read(inner, depth + 1) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            self._spend(len(value))
            return tuple(self.read(inner, depth + 1) for inner in value)
        self.foreign.append(_kind(value))
        return _text(value)

    def _array(self, array: Array, depth: int) -> LogValue:
        if array.ndim:
            self._spend(max(array.size, *array.shape))
        if not _has_bytes(array):
            self.foreign.append(f"{array.dtype} array")
            return self.read(array.tolist(), depth + 1)
        if array.dtype.kind in "SUV" and array.dtype.itemsize > _PER_TEXT:
            self._spend(array.nbytes // _PER_TEXT)
        if array.dtype.kind in "mM":
            array = array.astype(str)
        if array.dtype.char == "g":  # more bits than a Python float
            with np.errstate(all="ignore"):
                array = array.astype(np.float64)
        return _tuples(array.tolist())

    def _spend(self, values: int) -> None:
        self.left -= values
        if self.left < 0:
            raise _TooLargeError


def _tuples(value: Any) -> LogValue:
    """Convert the result of `tolist`."""
    if isinstance(value, list):
        return tuple(_tuples(inner) for inner in value)
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return as_text(str(value))  # text and complex numbers


def _as_array(value: Any) -> Array | None:
    """Convert an array, a NumPy scalar or a tensor to an array; return None for other values."""
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    if isinstance(value, int | float | str | list | tuple | Mapping):
        return None
    read = getattr(value, "numpy", None)
    found = read() if callable(read) else None
    return np.asarray(found) if isinstance(found, np.ndarray | np.generic) else None


def _has_bytes(array: Array) -> bool:
    """Whether the bytes of the array contain its values, and its dtype has a short name."""
    dtype = array.dtype
    return dtype.kind in "biufcSUVmM" and dtype.names is None and dtype.itemsize > 0


def _encode(value: Any, depth: int) -> Any:
    if type(value) in (float, bool, str) or value is None:
        return value
    array = _as_array(value)
    if array is not None and _has_bytes(array):
        own = {np.ndarray: "array", np.generic: "scalar"}
        kind = next((own[cls] for cls in own if isinstance(value, cls)), "tensor")
        return {kind: _pack(array)}
    if depth <= _MAX_DEPTH:
        if array is not None and array.ndim:
            return _encode(array.tolist(), depth + 1)
        if isinstance(value, Mapping):
            return {"dict": {_name(key): _encode(inner, depth + 1) for key, inner in value.items()}}
        if isinstance(value, list | tuple):
            kind = "list" if isinstance(value, list) else "tuple"
            return {kind: [_encode(inner, depth + 1) for inner in value]}
    if isinstance(value, str | float):
        return str(value) if isinstance(value, str) else float(value)
    if isinstance(value, int) and value.bit_length() <= _LARGEST_INT:
        return int(value)
    return _text(value)


def _pack(array: Array) -> dict[str, Any]:
    bits = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
    return {"dtype": _dtype_name(array.dtype), "shape": list(array.shape), "bits": bits}


def _dtype_name(dtype: np.dtype[Any]) -> str:
    """Return a text from which NumPy makes the same dtype: byte order, unit and length."""
    known = getattr(ml_dtypes, dtype.name, None)
    return str(dtype.name if known is not None else dtype.str)


def _decode(value: Any, tensor: Callable[[Array], Any]) -> Any:
    if isinstance(value, list):  # version 0.1 wrote arrays as lists
        return [_decode(inner, tensor) for inner in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    match kind:
        case "list" | "tuple":
            items = [_decode(item, tensor) for item in inner]
            return items if kind == "list" else tuple(items)
        case "dict":
            return {key: _decode(item, tensor) for key, item in inner.items()}
        case "array":
            return _unpack(inner)
        case "scalar":
            return _unpack(inner)[()]
        case "tensor":
            return tensor(_unpack(inner))
    raise ValueError(f"not logs: {kind}")


def _unpack(packed: Mapping[str, Any]) -> Array:
    dtype = dtypes.parse_dtype(packed["dtype"])
    shape = tuple(packed["shape"])
    bits = base64.b64decode(packed["bits"], validate=True)
    if dtype.hasobject or not dtype.itemsize or len(bits) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"not an array of {dtype} and shape {shape}")
    array: Array = np.frombuffer(bits, dtype).reshape(shape).copy()
    return array


def _name(name: Any) -> str:
    return as_text(name) if isinstance(name, str) else _text(name)


def _text(value: Any) -> str:
    try:
        return as_text(_words.repr(value))
    except Exception:  # noqa: BLE001 - its own repr may do anything
        return f"<{type(value).__name__}>"


def _description(value: Any) -> str:
    array = _as_array(value)
    if array is None:
        return f"{_kind(value)} {_text(value)}"
    return f"{array.dtype.name} array of shape {array.shape}"


def _kind(value: Any) -> str:
    return type(value).__name__
