"""Steering a `fit` that is under way.

Keras has no public way to start in a later epoch, to end an epoch early without
ending the training, or to see an exception leave `fit`. The one room that does
these things through what Keras keeps private; `tests/test_keras_private.py`
fails when a version of Keras changes it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any

import keras

from keras_savekit.formats.logs import restored
from keras_savekit.model.traced import WRAPPER, Wrapper, unwrap

_BYSTANDERS = {"SaveKit", "FullModelSaver", "WeightsSaver", "History", "ProgbarLogger"}


class _Ours:
    """A true `stop_training` that is ours, and so can be told from anybody else's."""

    def __init__(self, why: str) -> None:
        self._why = why

    def __repr__(self) -> str:
        return self._why


_EPOCH_IS_OVER = _Ours("this epoch is over")
_INTERRUPTED = _Ours("a signal asked to stop")


def end_epoch(model: Any) -> None:
    """Make `fit` leave its loop over batches after this batch, as at an epoch's end.

    Without it Keras would ask for one batch more, find none, and count a step
    that never was: the optimizer's iterations and the seeds would go on by one.
    """
    if not model.stop_training:
        model.stop_training = _EPOCH_IS_OVER


def stopped(model: Any) -> bool:
    """Whether `fit` was asked to stop for good, or until it is resumed."""
    return bool(model.stop_training) and model.stop_training is not _EPOCH_IS_OVER


def interrupt(model: Any) -> None:
    """Make `fit` end after this batch; a later one is to go on there."""
    model.stop_training = _INTERRUPTED


def interrupted(model: Any) -> bool:
    """Whether `interrupt` was called, by any savekit callback of this `fit`."""
    return model.stop_training is _INTERRUPTED


def next_epoch(model: Any) -> None:
    """Undo `end_epoch`, unless somebody asked in the meantime to stop for good."""
    if model.stop_training is _EPOCH_IS_OVER:
        model.stop_training = False


def end_validation(model: Any) -> None:
    """Make the validation under way end after this batch."""
    model.stop_evaluating = True


class Fit:
    """One running `fit`. Make it within `on_train_begin`, release it when training ends.

    callback: the one that stands for us in the list given to `fit`.
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

    def others(self) -> list[Any]:
        """The other callbacks of this `fit`, in order, Keras's own included."""
        return [each for each in self.listed() if each is not self._callback]

    def callbacks_after(self) -> str:
        """What is wrong with the order of the callbacks; empty if nothing is."""
        listed = self.listed()
        behind = listed[listed.index(self._callback) + 1 :] if self._callback in listed else []
        names = [type(each).__name__ for each in behind]
        after = ", ".join(name for name in names if name not in _BYSTANDERS)
        return after and (
            f"{after} comes after the savekit callback in `callbacks=[...]`, and "
            "changes what was already saved; put it last"
        )

    def listed(self) -> list[Any]:
        """Every callback of this `fit`, in order."""
        return list(self._list.callbacks) if self._list is not None else []

    def same(self, other: Fit) -> bool:
        """Whether both stand for one `fit`."""
        return self._list is not None and self._list is other._list

    def flows(self) -> bool:
        """Whether one pass over the data goes on from epoch to epoch (`steps_per_epoch=`)."""
        return bool(_arguments_of_fit().get("steps_per_epoch"))

    def validates(self) -> bool:
        """Whether `fit` has data to validate with."""
        return _arguments_of_fit().get("validation_data") is not None

    def restore_history(self, epochs: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        """Let the `History` that `fit` returns begin with these epochs and their logs.

        epochs: logs as `formats.logs.exact` makes them.

        To be called when an epoch begins, or training ends: Keras empties it before.
        """
        history = self._model.history
        if history.epoch or not epochs:
            return
        history.epoch = [epoch for epoch, _ in epochs]
        history.history = {}
        for _, logs in epochs:
            for name, value in restored(logs, keras.ops.convert_to_tensor).items():
                history.history.setdefault(name, []).append(value)

    def start_at(self, epoch: int) -> None:
        """Make `fit` begin with this epoch, counted from 0."""
        self._model._initial_epoch = self._first_epoch = epoch

    def watch(
        self, on_exception: Callable[[BaseException, bool], None], on_step: Callable[[], None]
    ) -> None:
        """Call `on_exception(error, in_step)` when an exception is about to leave `fit`.

        in_step: it came out of the train function, which may have changed some
            variables and not others.
        on_step: called when the train function has returned, before any callback.
        The exception then goes on unchanged, and is told once, though the loop over
        batches, which is where data may raise between two steps, sees all of them.
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
            around = functools.partial(_loop, on_exception=elsewhere)
            self._wrap(self._batches, "catch_stop_iteration", elsewhere, around)
        self._wrap(self._model, "evaluate", elsewhere)
        for hook in _HOOKS:
            if self._list is not None:
                self._wrap(self._list, hook, elsewhere)

    def train_nothing(self) -> None:
        """Make the next call of the train function return the metrics as they are, and no more.

        For an epoch of which all batches are done: `fit` has no way to enter it at its end.
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
        """Leave the model as it was found, so that a later `fit` starts where it says."""
        next_epoch(self._model)
        if self._model._initial_epoch == self._first_epoch:  # else somebody else has put it back
            self._model._initial_epoch = self._initial_epoch
        for undo in reversed(self._undo):
            undo()
        self._undo.clear()

    def _wrap(
        self,
        owner: Any,
        name: str,
        on_exception: Callable[[BaseException], None],
        around: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda inner: inner,
    ) -> None:
        inner = getattr(owner, name)
        layer = Wrapper(inner, name in vars(owner))

        def current(*args: Any, **kwargs: Any) -> Any:
            return layer.inner(*args, **kwargs)  # `discard_traces` may replace it

        call = around(current)

        @functools.wraps(inner)
        def watched(*args: Any, **kwargs: Any) -> Any:
            try:
                return call(*args, **kwargs)
            except StopIteration:
                raise  # how Keras says that the data has ended
            except BaseException as error:
                if not _is_end_of_data(error):
                    on_exception(error)
                raise

        object.__setattr__(owner, name, watched)
        setattr(watched, WRAPPER, layer)
        self._undo.append(lambda: unwrap(owner, name, layer))


def _loop(
    inner: Callable[[], AbstractContextManager[None]],
    on_exception: Callable[[BaseException], None],
) -> Callable[[], AbstractContextManager[None]]:
    """What Keras puts around its loop over batches, where it takes the data's end."""

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
    """All callbacks of the `fit` that is calling, in order; none if no `fit` is."""
    return list(_caller("CallbackList").callbacks) if _arguments_of_fit() else []


def _caller(kind: str) -> Any:
    """The innermost caller that is a method of this class, as its object."""
    for frame in _frames():
        caller = frame.f_locals.get("self")
        if type(caller).__name__ == kind:
            return caller
    return None


def _arguments_of_fit() -> Mapping[str, Any]:
    """The local variables of the `fit` that is calling us."""
    for frame in _frames():
        if frame.f_code.co_name == "fit" and "initial_epoch" in frame.f_locals:
            return frame.f_locals
    return {}


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back
