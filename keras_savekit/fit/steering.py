"""Steer a running `fit`.

Keras has no public way to start in a later epoch, to end an epoch early without
ending the training, or to see an exception leave `fit`. This is the one module that
uses private parts of Keras for it; `tests/test_keras_private.py` fails when a
version of Keras changes them.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any

import keras

from keras_savekit.formats.log_values import decode_logs
from keras_savekit.model.traced import WRAPPER, Wrapper, unwrap

_BYSTANDERS = {"SaveKit", "FullModelSaver", "WeightsSaver", "History", "ProgbarLogger"}


class _Ours:
    """A true value for `stop_training` that differs from every value of other code."""

    def __init__(self, why: str) -> None:
        self._why = why

    def __repr__(self) -> str:
        return self._why


_EPOCH_IS_OVER = _Ours("this epoch is over")
_INTERRUPTED = _Ours("a stop was requested")


def end_epoch(model: Any) -> None:
    """Make `fit` leave its loop over batches after this batch, as at an epoch's end.

    Without it Keras requests one more batch, finds none, and counts a step that did
    not happen: the optimizer's iterations and the seeds advance by one.
    """
    if not model.stop_training:
        model.stop_training = _EPOCH_IS_OVER


def is_stopped(model: Any) -> bool:
    """Return whether `fit` will end: for good, or until it is resumed."""
    return bool(model.stop_training) and model.stop_training is not _EPOCH_IS_OVER


def interrupt(model: Any) -> None:
    """Make `fit` end after this batch; a later `fit` resumes there."""
    model.stop_training = _INTERRUPTED


def is_interrupted(model: Any) -> bool:
    """Return whether any savekit callback of this `fit` has called `interrupt`."""
    return model.stop_training is _INTERRUPTED


def next_epoch(model: Any) -> None:
    """Undo `end_epoch`, unless other code has stopped the training since."""
    if model.stop_training is _EPOCH_IS_OVER:
        model.stop_training = False


def end_validation(model: Any) -> None:
    """Make the current validation end after this batch."""
    model.stop_evaluating = True


class Fit:
    """One running `fit`. Create it in `on_train_begin`; release it when training ends.

    callback: ours in the list that `fit` was given.
    """

    def __init__(self, model: Any, callback: Any) -> None:
        self._model = model
        self._callback = callback
        self._list = _caller("CallbackList")
        self._batches = _arguments_of_fit().get("epoch_iterator")
        self._left = False
        self._initial_epoch = model._initial_epoch
        self._first_epoch: int | None = None
        self._train_nothing = False
        self._undo: list[Callable[[], None]] = []

    def other_callbacks(self) -> list[Any]:
        """Return the other callbacks of this `fit`, in order, Keras's own included."""
        return [callback for callback in self.callbacks() if callback is not self._callback]

    def order_problem(self) -> str:
        """Return what is wrong with the order of the callbacks; empty if nothing is."""
        listed = self.callbacks()
        later = listed[listed.index(self._callback) + 1 :] if self._callback in listed else []
        names = [type(callback).__name__ for callback in later]
        after = ", ".join(name for name in names if name not in _BYSTANDERS)
        return after and (
            f"{after} comes after the savekit callback in `callbacks=[...]`, and "
            "changes what was already saved; put it last"
        )

    def callbacks(self) -> list[Any]:
        """Return every callback of this `fit`, in order."""
        return list(self._list.callbacks) if self._list is not None else []

    def is_same(self, other: Fit) -> bool:
        """Return whether both are one `fit`."""
        return self._list is not None and self._list is other._list

    def flows(self) -> bool:
        """Return whether one pass over the data continues over epochs (`steps_per_epoch=`)."""
        return bool(_arguments_of_fit().get("steps_per_epoch"))

    def validates(self) -> bool:
        """Return whether `fit` has validation data."""
        return _arguments_of_fit().get("validation_data") is not None

    def restore_history(self, epochs: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        """Let the `History` that `fit` returns begin with these epochs and their logs.

        epochs: logs as `formats.log_values.encode_logs` makes them.

        Call it when an epoch begins, or training ends: Keras has emptied the history then.
        """
        history = self._model.history
        if history.epoch or not epochs:
            return
        history.epoch = [epoch for epoch, _ in epochs]
        history.history = {}
        for _, logs in epochs:
            for name, value in decode_logs(logs, keras.ops.convert_to_tensor).items():
                history.history.setdefault(name, []).append(value)

    def start_at(self, epoch: int) -> None:
        """Make `fit` begin with this epoch, counted from 0."""
        self._model._initial_epoch = self._first_epoch = epoch

    def watch(
        self, on_exception: Callable[[BaseException, bool], None], on_step: Callable[[], None]
    ) -> None:
        """Call `on_exception(error, in_step)` when an exception is about to leave `fit`.

        in_step: whether the train function raised it, which may have changed some
            variables and not others.
        on_step: called when the train function has returned, before any callback.

        The exception then continues unchanged. It is reported once, although the loop
        over batches, where data may raise between two steps, sees all of them.
        """

        def once(error: BaseException, in_step: bool) -> None:
            if not self._left:
                self._left = True
                on_exception(error, in_step)

        def in_step(error: BaseException) -> None:
            once(error, True)

        def elsewhere(error: BaseException) -> None:
            once(error, False)

        self._wrap(self._model, "train_function", in_step, lambda inner: self._step(inner, on_step))
        if self._batches is not None:
            watch_loop = functools.partial(_watch_loop, on_exception=elsewhere)
            self._wrap(self._batches, "catch_stop_iteration", elsewhere, watch_loop)
        self._wrap(self._model, "evaluate", elsewhere)
        for hook in _HOOKS:
            if self._list is not None:
                self._wrap(self._list, hook, elsewhere)

    def train_nothing(self) -> None:
        """Make the next call of the train function return the metrics without training.

        For an epoch whose batches are all done: `fit` cannot enter an epoch at its end.
        """
        self._train_nothing = True

    def _step(self, inner: Callable[..., Any], on_step: Callable[[], None]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            if self._train_nothing:
                self._train_nothing = False
                return self._model.get_metrics_result()
            result = inner(*args, **kwargs)
            on_step()
            return result

        return step

    def release(self) -> None:
        """Restore the model's attributes, so that a later `fit` starts where it says."""
        next_epoch(self._model)
        if self._model._initial_epoch == self._first_epoch:  # else someone has changed it
            self._model._initial_epoch = self._initial_epoch
        for undo in reversed(self._undo):
            undo()
        self._undo.clear()

    def _wrap(
        self,
        owner: Any,
        name: str,
        on_exception: Callable[[BaseException], None],
        wrapper: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda inner: inner,
    ) -> None:
        inner = getattr(owner, name)
        layer = Wrapper(inner, name in vars(owner))

        def current(*args: Any, **kwargs: Any) -> Any:
            return layer.inner(*args, **kwargs)  # `discard_traces` may replace it

        call = wrapper(current)

        @functools.wraps(inner)
        def watched(*args: Any, **kwargs: Any) -> Any:
            try:
                return call(*args, **kwargs)
            except StopIteration:
                raise  # how Keras reports that the data has ended
            except BaseException as error:
                if not _is_end_of_data(error):
                    on_exception(error)
                raise

        object.__setattr__(owner, name, watched)
        setattr(watched, WRAPPER, layer)
        self._undo.append(lambda: unwrap(owner, name, layer))


def _watch_loop(
    inner: Callable[[], AbstractContextManager[None]],
    on_exception: Callable[[BaseException], None],
) -> Callable[[], AbstractContextManager[None]]:
    """Watch the context manager of Keras's loop over batches, which handles the data's end."""

    @contextmanager
    def loop() -> Iterator[None]:
        try:
            with inner():
                yield
        except BaseException as error:
            on_exception(error)
            raise

    return loop


_HOOKS = (
    "on_epoch_begin",
    "on_epoch_end",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_train_end",
)


def _is_end_of_data(error: BaseException) -> bool:
    return type(error).__name__ == "OutOfRangeError"


def callbacks_of_fit() -> list[Any]:
    """Return all callbacks of the calling `fit`, in order; none if no `fit` is calling."""
    return list(_caller("CallbackList").callbacks) if _arguments_of_fit() else []


def fit_is_starting() -> bool:
    """Return whether the caller is a `fit`, and not an `evaluate` or a `predict`, within one too.

    For `set_model`, which all three call when they create their list of callbacks.
    """
    for frame in _frames():
        if frame.f_code.co_name in ("fit", "evaluate", "predict") and "callbacks" in frame.f_locals:
            return frame.f_code.co_name == "fit"
    return False


def watch_start(on_exception: Callable[[BaseException], None]) -> None:
    """Call `on_exception` if an exception leaves the `on_train_begin` of any callback.

    For `set_model`: a `Fit` that is created in `on_train_begin` does not see it.
    """
    callbacks = _caller("CallbackList")
    if callbacks is None:
        return
    inner = callbacks.on_train_begin

    @functools.wraps(inner)
    def watched(*args: Any, **kwargs: Any) -> Any:
        try:
            return inner(*args, **kwargs)
        except BaseException as error:
            on_exception(error)
            raise

    callbacks.on_train_begin = watched


def _caller(kind: str) -> Any:
    """Return the object of the innermost caller that is a method of this class."""
    for frame in _frames():
        caller = frame.f_locals.get("self")
        if type(caller).__name__ == kind:
            return caller
    return None


def _arguments_of_fit() -> Mapping[str, Any]:
    """Return the local variables of the calling `fit`."""
    for frame in _frames():
        if frame.f_code.co_name == "fit" and "initial_epoch" in frame.f_locals:
            return frame.f_locals
    return {}


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back
