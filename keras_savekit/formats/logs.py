"""Logs as Keras and the user's code report them, turned into values of our own.

This is the one place that looks at them: floats, arrays, tensors, lists, objects.

`readable` makes what triggers, rules and manifests have, see `policy.logs`.
`exact` makes JSON values for the training state; `restored` makes the same values of
them again, arrays to the last bit. What neither can hold becomes text. Nothing that
a log may hold makes these raise.
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

MOST_VALUES = 50_000  # in arrays, lists and texts: a manifest must stay small enough to be read
_DEEPEST = 20
_LARGEST_INT = 1024  # bits
_PER_TEXT = 16  # characters that count as one value

_words = reprlib.Repr()
_words.maxstring = _words.maxother = 200


@dataclass(frozen=True, slots=True)
class Readable:
    """Logs as triggers, rules and manifests have them.

    notes: name to a sentence that says why a value is there only as text.
    """

    logs: Logs
    notes: Mapping[str, str] = field(default_factory=dict)


def readable(reported: Mapping[Any, Any]) -> Readable:
    """Logs for triggers, rules and manifests."""
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
        except Exception:  # noqa: BLE001 - whatever a log holds, it ends no training
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


def exact(reported: Mapping[Any, Any]) -> dict[str, Any]:
    """Logs as JSON values, of which `restored` makes the same logs again."""
    found = {}
    for key, value in reported.items():
        try:
            found[_name(key)] = _exact(value, 0)
        except Exception:  # noqa: BLE001, PERF203 - as in `readable`
            found[_name(key)] = _text(value)
    return found


def restored(
    saved: Mapping[str, Any], tensor: Callable[[Array], Any] = lambda array: array
) -> dict[str, Any]:
    """The logs that `exact` was given. Raises ValueError if no `exact` made `saved`.

    tensor: makes a tensor of an array.
    """
    try:
        return {name: _restored(value, tensor) for name, value in saved.items()}
    except (
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
        MemoryError,
    ) as error:
        raise ValueError(f"no logs: {type(error).__name__}: {error}") from error


class _TooLargeError(Exception):
    pass


class _Reader:
    """Reads one value after another, and counts what it has read.

    foreign: the types of values that were turned into text.
    """

    def __init__(self) -> None:
        self.left = MOST_VALUES
        self.foreign: list[str] = []

    def read(self, value: Any, depth: int) -> LogValue:
        """A value without arrays and objects. Raises _TooLargeError, or what its code raises."""
        if type(value) is float or value is None or isinstance(value, bool):
            return value
        if depth > _DEEPEST:
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
            return {_name(key): self.read(each, depth + 1) for key, each in value.items()}
        if isinstance(value, list | tuple):
            self._spend(len(value))
            return tuple(self.read(each, depth + 1) for each in value)
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
        if array.dtype.char == "g":  # of more bits than Python's
            with np.errstate(all="ignore"):
                array = array.astype(np.float64)
        return _tuples(array.tolist())

    def _spend(self, values: int) -> None:
        self.left -= values
        if self.left < 0:
            raise _TooLargeError


def _tuples(value: Any) -> LogValue:
    """What `tolist` gave, as values."""
    if isinstance(value, list):
        return tuple(_tuples(each) for each in value)
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return as_text(str(value))  # text and complex numbers


def _as_array(value: Any) -> Array | None:
    """An array, a NumPy scalar or a tensor as an array; None if it is none of them."""
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    if isinstance(value, int | float | str | list | tuple | Mapping):
        return None
    read = getattr(value, "numpy", None)
    found = read() if callable(read) else None
    return np.asarray(found) if isinstance(found, np.ndarray | np.generic) else None


def _has_bytes(array: Array) -> bool:
    """Whether the array's values are in its own bytes, and its dtype has a short name."""
    dtype = array.dtype
    return dtype.kind in "biufcSUVmM" and dtype.names is None and dtype.itemsize > 0


def _exact(value: Any, depth: int) -> Any:
    if type(value) in (float, bool, str) or value is None:
        return value
    array = _as_array(value)
    if array is not None and _has_bytes(array):
        own = {np.ndarray: "array", np.generic: "scalar"}
        kind = next((own[each] for each in own if isinstance(value, each)), "tensor")
        return {kind: _packed(array)}
    if depth <= _DEEPEST:
        if array is not None and array.ndim:
            return _exact(array.tolist(), depth + 1)
        if isinstance(value, Mapping):
            return {"dict": {_name(key): _exact(each, depth + 1) for key, each in value.items()}}
        if isinstance(value, list | tuple):
            kind = "list" if isinstance(value, list) else "tuple"
            return {kind: [_exact(each, depth + 1) for each in value]}
    if isinstance(value, str | float):
        return str(value) if isinstance(value, str) else float(value)
    if isinstance(value, int) and value.bit_length() <= _LARGEST_INT:
        return int(value)
    return _text(value)


def _packed(array: Array) -> dict[str, Any]:
    bits = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
    return {"dtype": _dtype_name(array.dtype), "shape": list(array.shape), "bits": bits}


def _dtype_name(dtype: np.dtype[Any]) -> str:
    """The text that reads back as this dtype: byte order, unit and length included."""
    known = getattr(ml_dtypes, dtype.name, None)
    return str(dtype.name if known is not None else dtype.str)


def _restored(value: Any, tensor: Callable[[Array], Any]) -> Any:
    if isinstance(value, list):  # version 0.1 made lists of arrays
        return [_restored(each, tensor) for each in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    match kind:
        case "list" | "tuple":
            items = [_restored(each, tensor) for each in inner]
            return items if kind == "list" else tuple(items)
        case "dict":
            return {key: _restored(each, tensor) for key, each in inner.items()}
        case "array":
            return _unpacked(inner)
        case "scalar":
            return _unpacked(inner)[()]
        case "tensor":
            return tensor(_unpacked(inner))
    raise ValueError(f"no logs: {kind}")


def _unpacked(packed: Mapping[str, Any]) -> Array:
    dtype = dtypes.by_name(packed["dtype"])
    shape = tuple(packed["shape"])
    bits = base64.b64decode(packed["bits"], validate=True)
    if dtype.hasobject or not dtype.itemsize or len(bits) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"no array of {dtype} and shape {shape}")
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
