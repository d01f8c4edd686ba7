"""What other callbacks remember, read out of them and put back.

Keras's callbacks have no protocol for this, so the attributes that matter are
named here. A callback of the user's own takes part by two methods:

    get_state() -> numbers, texts, None, NumPy arrays, and lists and dicts of them
    set_state(state)

`set_state` is called when training begins, after every callback's
`on_train_begin`, and once more when training goes on in the middle of an epoch,
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
REMEMBERED = {
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
    # What these do depends on the epoch and the model alone.
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
    """What all callbacks of a `fit` remember.

    states: name of each callback to JSON values; arrays in them are named.
    arrays: name to array. Callbacks replace arrays and do not change them, so
        these are references.
    """

    states: Mapping[str, State]
    arrays: Arrays


def require_none_in_the_way(callbacks: Iterable[Any]) -> None:
    """Raise ResumeError if another callback would resume too."""
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            raise ResumeError(
                "BackupAndRestore stands beside the savekit callback: both would resume, from "
                "different places",
                "callbacks=[...]",
                "take BackupAndRestore out of the list",
            )


def changed_at_the_end(callbacks: Iterable[Any]) -> tuple[str, ...]:
    """Why weights saved when training had ended may not be those of its last step."""
    return tuple(
        f"it was saved after {type(each).__name__} had ended the training with other weights"
        for each in callbacks
        if isinstance(each, keras.callbacks.SwapEMAWeights)
        or (isinstance(each, keras.callbacks.EarlyStopping) and each.restore_best_weights)
    )


def remember(callbacks: Iterable[Any]) -> CallbackStates:
    """The state of every callback that has one.

    Raises ModelError, naming the callback, if it gives something that cannot be saved.
    """
    arrays: dict[str, Array] = {}
    states = {}
    for name, callback in _named(callbacks).items():
        keeper = _keeper(callback)
        if keeper is not None and keeper.has_state:
            states[name] = _packed(keeper.get(callback), name, arrays)
    return CallbackStates(states, arrays)


def put_back(callbacks: Iterable[Any], memory: CallbackStates) -> None:
    """Give every callback what it remembered. The rest stays as it is."""
    for name, callback in _named(callbacks).items():
        keeper = _keeper(callback)
        if keeper is not None and name in memory.states:
            keeper.set(callback, _unpacked(memory.states[name], memory.arrays))


def not_restored(callbacks: Iterable[Any], memory: CallbackStates) -> tuple[str, ...]:
    """Why the callbacks may decide otherwise than they would have, one sentence each."""
    reasons = []
    named = _named(callbacks)
    for name, callback in named.items():
        keeper, title = _keeper(callback), type(callback).__name__
        if keeper is None:
            reasons.append(
                f"{title} starts anew; give it get_state() and set_state() if it remembers anything"
            )
        elif keeper.has_state and name not in memory.states:
            reasons.append(f"{title} was not there before; it starts anew")
        if keeper is not None and keeper.known_as not in ("", title):
            reasons.append(f"of {title} only what {keeper.known_as} remembers is restored")
    gone = [name for name, state in memory.states.items() if state and name not in named]
    reasons += [f"{name.partition('#')[0]} was there before and is not now" for name in gone]
    return tuple(reasons)


@dataclass(frozen=True, slots=True)
class _Keeper:
    """How to read one kind of callback. known_as: the class of Keras's it is read as."""

    known_as: str
    get: Callable[[Any], Any]
    set: Callable[[Any, Any], None]
    has_state: bool = True


def _keeper(callback: Any) -> _Keeper | None:
    if callable(getattr(callback, "get_state", None)) and callable(
        getattr(callback, "set_state", None)
    ):
        return _Keeper("", lambda each: each.get_state(), lambda each, state: each.set_state(state))
    if isinstance(callback, keras.callbacks.CSVLogger):
        return _Keeper("CSVLogger", _csv_state, _set_csv_state)
    for kind in type(callback).__mro__:
        if kind.__name__ in REMEMBERED and kind.__module__.startswith("keras."):
            return _attributes(kind.__name__, REMEMBERED[kind.__name__])
    return None


def _attributes(known_as: str, names: tuple[str, ...]) -> _Keeper:
    def get(callback: Any) -> dict[str, Any]:
        return {name: getattr(callback, name, None) for name in names}

    def put(callback: Any, state: Mapping[str, Any]) -> None:
        if "best" in names and not hasattr(callback, "best"):
            _keep_best(callback, state["best"])
        for name in names:
            if state[name] is not None or hasattr(callback, name):
                setattr(callback, name, state[name])

    return _Keeper(known_as, get, put, has_state=bool(names))


def _keep_best(callback: Any, best: Any) -> None:
    """Before Keras 3.5 EarlyStopping forgets the best when it finds out its mode, once."""

    def and_remember() -> None:
        del callback._set_monitor_op
        callback._set_monitor_op()
        if best is not None:
            callback.best = best

    callback._set_monitor_op = and_remember


def _csv_state(callback: Any) -> dict[str, Any]:
    """How long the file is, so that rows of epochs that are trained again can go."""
    file = callback.csv_file
    if file is None or file.closed:
        return {"size": None, "keys": callback.keys}
    file.flush()
    return {"size": file.tell(), "keys": callback.keys}


def _set_csv_state(callback: Any, state: Mapping[str, Any]) -> None:
    callback.keys = state["keys"]
    if state["size"] is not None and callback.csv_file.tell() >= state["size"]:
        callback.csv_file.truncate(state["size"])
        callback.append_header = state["size"] == 0


def open_for_appending(callbacks: Iterable[Any]) -> None:
    """Before training begins: keep CSVLogger from emptying a file that is to be gone on with."""
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.CSVLogger):
            callback.append = True


def start_anew(callbacks: Iterable[Any]) -> None:
    """There was nothing to go on with after all: what `open_for_appending` kept goes."""
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.CSVLogger) and callback.csv_file is not None:
            _set_csv_state(callback, {"size": 0, "keys": None})


def _named(callbacks: Iterable[Any]) -> dict[str, Any]:
    """Each callback under a name that is the same in the next session: class and number."""
    seen: Counter[str] = Counter()
    named = {}
    for callback in callbacks:
        kind = type(callback).__name__
        named[f"{kind}#{seen[kind]}"] = callback
        seen[kind] += 1
    return named


def _packed(value: Any, path: str, arrays: dict[str, Array]) -> Any:
    """`value` as JSON values; its arrays go into `arrays` under their path."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _packed(each, f"{path}/{key}", arrays) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_packed(each, f"{path}/{index}", arrays) for index, each in enumerate(value)]
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


def _unpacked(value: Any, arrays: Arrays) -> Any:
    if isinstance(value, dict):
        if set(value) == {_ARRAY}:
            return arrays[value[_ARRAY]]
        return {key: _unpacked(each, arrays) for key, each in value.items()}
    return [_unpacked(each, arrays) for each in value] if isinstance(value, list) else value
