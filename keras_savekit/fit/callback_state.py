"""Collect the state of other callbacks, and restore it.

Keras's callbacks have no protocol for this, so the attributes that matter are
listed here. A callback of the user takes part with two methods:

    get_state() -> numbers, texts, None, NumPy arrays, and lists and dicts of them
    set_state(state)

`set_state` is called when training begins, after every callback's
`on_train_begin`, and once more when training resumes in the middle of an epoch,
after every callback's `on_epoch_begin`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_savekit.base.tensors import Array
from keras_savekit.errors import ModelError, ResumeError

# Keras's callbacks whose later decisions depend on these attributes.
SAVED_ATTRIBUTES = {
    "EarlyStopping": ("wait", "stopped_epoch", "best", "best_epoch", "best_weights"),
    "ReduceLROnPlateau": ("wait", "best", "cooldown_counter"),
    "ModelCheckpoint": (
        "best",
        "_current_epoch",
        "_last_batch_seen",
        "_batches_seen_since_last_saving",
    ),
    "SwapEMAWeights": ("_ema_weights_in_model",),
    "TensorBoard": ("_global_train_batch", "_global_test_batch"),
    # These depend on the epoch and the model alone.
    "LearningRateScheduler": (),
    "TerminateOnNaN": (),
    "RemoteMonitor": (),
    "History": (),
    "ProgbarLogger": (),
}
_ARRAY = "__array__"

State = Mapping[str, Any]
Arrays = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class CallbackStates:
    """The states of all callbacks of a `fit`.

    states: name of each callback to JSON values, in which arrays have names.
    arrays: name to array. These are references: callbacks replace arrays and do not
        change them.
    """

    states: Mapping[str, State]
    arrays: Arrays


def require_no_other_resume(callbacks: Iterable[Any]) -> None:
    """Raise ResumeError if another callback would resume too."""
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            raise ResumeError(
                "BackupAndRestore is used beside the savekit callback: both would resume, from "
                "different places",
                "callbacks=[...]",
                "remove BackupAndRestore from the list",
            )


def weights_changed_at_end(callbacks: Iterable[Any]) -> tuple[str, ...]:
    """Return why weights saved when training had ended may not be those of its last step."""
    return tuple(
        f"it was saved after {type(callback).__name__} had ended the training with other weights"
        for callback in callbacks
        if isinstance(callback, keras.callbacks.SwapEMAWeights)
        or (isinstance(callback, keras.callbacks.EarlyStopping) and callback.restore_best_weights)
    )


def collect(callbacks: Iterable[Any]) -> CallbackStates:
    """Return the state of every callback that has one.

    Raises ModelError with the callback's name if its state cannot be saved.
    """
    arrays: dict[str, Array] = {}
    states = {}
    for name, callback in _by_name(callbacks).items():
        access = _access(callback)
        if access is not None and access.has_state:
            states[name] = _pack(access.get(callback), name, arrays)
    return CallbackStates(states, arrays)


def restore(callbacks: Iterable[Any], saved: CallbackStates) -> None:
    """Restore every callback that has a saved state. The others stay as they are."""
    for name, callback in _by_name(callbacks).items():
        access = _access(callback)
        if access is not None and name in saved.states:
            access.set(callback, _unpack(saved.states[name], saved.arrays))


def not_restored(callbacks: Iterable[Any], saved: CallbackStates) -> tuple[str, ...]:
    """Return why the callbacks may decide otherwise than without the stop, as sentences."""
    reasons = []
    named = _by_name(callbacks)
    for name, callback in named.items():
        access, title = _access(callback), type(callback).__name__
        if access is None:
            reasons.append(
                f"{title} starts over; give it get_state() and set_state() if it has a state"
            )
        elif access.has_state and name not in saved.states:
            reasons.append(f"{title} was not in the list before; it starts over")
        if access is not None and access.known_as not in ("", title):
            reasons.append(f"of {title} only the state of {access.known_as} is restored")
    gone = [name for name, state in saved.states.items() if state and name not in named]
    reasons += [f"{name.partition('#')[0]} was in the list before and is not now" for name in gone]
    return tuple(reasons)


@dataclass(frozen=True, slots=True)
class _Access:
    """How to read and set the state of one kind of callback.

    known_as: the class of Keras that it is treated as; empty for a callback with methods.
    """

    known_as: str
    get: Callable[[Any], Any]
    set: Callable[[Any, Any], None]
    has_state: bool = True


def _access(callback: Any) -> _Access | None:
    if callable(getattr(callback, "get_state", None)) and callable(
        getattr(callback, "set_state", None)
    ):
        return _Access("", lambda own: own.get_state(), lambda own, state: own.set_state(state))
    if isinstance(callback, keras.callbacks.CSVLogger):
        return _Access("CSVLogger", _csv_state, _set_csv_state)
    for kind in type(callback).__mro__:
        if kind.__name__ in SAVED_ATTRIBUTES and kind.__module__.startswith("keras."):
            return _attributes(kind.__name__, SAVED_ATTRIBUTES[kind.__name__])
    return None


def _attributes(known_as: str, names: tuple[str, ...]) -> _Access:
    def get(callback: Any) -> dict[str, Any]:
        return {name: getattr(callback, name, None) for name in names}

    def put(callback: Any, state: Mapping[str, Any]) -> None:
        if "best" in names and not hasattr(callback, "best"):
            _restore_best_later(callback, state["best"])
        for name in names:
            if state[name] is not None or hasattr(callback, name):
                setattr(callback, name, state[name])

    return _Access(known_as, get, put, has_state=bool(names))


def _restore_best_later(callback: Any, best: Any) -> None:
    """Restore the best of EarlyStopping after it sets its mode: Keras before 3.5 resets it then."""

    def set_monitor_op() -> None:
        del callback._set_monitor_op
        callback._set_monitor_op()
        if best is not None:
            callback.best = best

    callback._set_monitor_op = set_monitor_op


_EMPTIES = "_savekit_empties"  # on a CSVLogger that would have emptied its file


def _csv_state(callback: Any) -> dict[str, Any]:
    """Return the length of the file: rows of epochs that are trained again are cut off."""
    file = callback.csv_file
    if file is None or file.closed:
        return {"size": None, "keys": callback.keys}
    file.flush()
    return {"size": file.tell(), "keys": callback.keys}


def _set_csv_state(callback: Any, state: Mapping[str, Any]) -> None:
    _reset_append(callback)
    callback.keys = state["keys"]
    if state["size"] is not None and callback.csv_file.tell() >= state["size"]:
        callback.csv_file.truncate(state["size"])
        callback.append_header = state["size"] == 0


def open_for_appending(callbacks: Iterable[Any]) -> None:
    """Before training begins: keep CSVLogger from emptying a file that a resume continues."""
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.CSVLogger) and not callback.append:
            callback.append = True
            setattr(callback, _EMPTIES, True)


def _reset_append(callback: Any) -> bool:
    """Undo `open_for_appending`; return whether the user's setting empties the file."""
    empties = bool(vars(callback).pop(_EMPTIES, False))
    if empties:
        callback.append = False
    return empties


def start_over(callbacks: Iterable[Any]) -> None:
    """Empty the files that `open_for_appending` kept: there is nothing to resume from."""
    for callback in callbacks:
        is_log = isinstance(callback, keras.callbacks.CSVLogger)
        if is_log and _reset_append(callback) and callback.csv_file is not None:
            _set_csv_state(callback, {"size": 0, "keys": None})


def _by_name(callbacks: Iterable[Any]) -> dict[str, Any]:
    """Return each callback under a name that the next session has too: class and number."""
    seen: Counter[str] = Counter()
    named = {}
    for callback in callbacks:
        kind = type(callback).__name__
        named[f"{kind}#{seen[kind]}"] = callback
        seen[kind] += 1
    return named


def _pack(value: Any, path: str, arrays: dict[str, Array]) -> Any:
    """Return `value` as JSON values; put its arrays into `arrays` under their path."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _pack(part, f"{path}/{key}", arrays) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_pack(part, f"{path}/{index}", arrays) for index, part in enumerate(value)]
    array = _as_array(value)
    if array is None or array.dtype.hasobject:
        raise ModelError(
            f"a {type(value).__name__} cannot be saved",
            path,
            "get_state() may return numbers, texts, None, NumPy arrays, lists and dicts of them",
        )
    if array.shape == () and array.dtype.kind in "biuf":
        return array.item()
    arrays[path] = array
    return {_ARRAY: path}


def _as_array(value: Any) -> Array | None:
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    return np.asarray(value.numpy()) if hasattr(value, "numpy") else None


def _unpack(value: Any, arrays: Arrays) -> Any:
    if isinstance(value, dict):
        if set(value) == {_ARRAY}:
            return arrays[value[_ARRAY]]
        return {key: _unpack(part, arrays) for key, part in value.items()}
    return [_unpack(part, arrays) for part in value] if isinstance(value, list) else value
