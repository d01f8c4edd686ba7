"""Steering a `fit` that is under way.

Keras has no public way to start in a later epoch, to end an epoch early without
ending the training, or to see an exception leave `fit`. The one room that does
these things through what Keras keeps private; `tests/test_keras_private.py`
fails when a version of Keras changes it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

# Callbacks that change nothing and remember nothing that training depends on.
BYSTANDERS = {"SaveKit", "FullModelSaver", "WeightsSaver", "History", "ProgbarLogger"}


class _EpochIsOver:
    """A true `stop_training` that is ours, and so can be told from anybody else's."""

    def __repr__(self) -> str:
        return "this epoch is over"


_EPOCH_IS_OVER = _EpochIsOver()


def end_epoch(model: Any) -> None:
    """Make `fit` leave its loop over batches after this batch, as at an epoch's end.

    Without it Keras would ask for one batch more, find none, and count a step
    that never was: the optimizer's iterations and the seeds would go on by one.
    """
    if not model.stop_training:
        model.stop_training = _EPOCH_IS_OVER


def next_epoch(model: Any) -> None:
    """Undo `end_epoch`, unless somebody asked in the meantime to stop for good."""
    if model.stop_training is _EPOCH_IS_OVER:
        model.stop_training = False


class Fit:
    """One running `fit`. Make it within `on_train_begin`, release it when training ends.

    callback: the one that stands for us in the list given to `fit`.
    """

    def __init__(self, model: Any, callback: Any) -> None:
        self._model = model
        self._callback = callback
        self._list = _callback_list()
        self._initial_epoch = model._initial_epoch
        self._undo: list[Callable[[], None]] = []

    def others(self) -> list[Any]:
        """The other callbacks of this `fit`, in order, Keras's own included."""
        return [each for each in self._listed() if each is not self._callback]

    def after(self) -> list[Any]:
        """Those that Keras calls only when ours was called, and that may change something."""
        listed = self._listed()
        behind = listed[listed.index(self._callback) + 1 :] if self._callback in listed else []
        return [each for each in behind if type(each).__name__ not in BYSTANDERS]

    def _listed(self) -> list[Any]:
        return list(self._list.callbacks) if self._list is not None else []

    def start_at(self, epoch: int) -> None:
        """Make `fit` begin with this epoch, counted from 0."""
        self._model._initial_epoch = epoch

    def watch(self, on_exception: Callable[[BaseException, bool], None]) -> None:
        """Call `on_exception(error, in_step)` when an exception is about to leave `fit`.

        in_step: it came out of a training step, which may have changed some
            variables and not others.
        The exception then goes on unchanged.
        """
        self._wrap(self._model, "train_function", on_exception, in_step=True)
        self._wrap(self._model, "evaluate", on_exception, in_step=False)
        for hook in _HOOKS:
            if self._list is not None:
                self._wrap(self._list, hook, on_exception, in_step=False)

    def release(self) -> None:
        """Leave the model as it was found, so that a later `fit` starts where it says."""
        next_epoch(self._model)
        self._model._initial_epoch = self._initial_epoch
        for undo in reversed(self._undo):
            undo()
        self._undo.clear()

    def _wrap(
        self,
        owner: Any,
        name: str,
        on_exception: Callable[[BaseException, bool], None],
        *,
        in_step: bool,
    ) -> None:
        inner = getattr(owner, name)
        own = name in vars(owner)

        @functools.wraps(inner)
        def watched(*args: Any, **kwargs: Any) -> Any:
            try:
                return inner(*args, **kwargs)
            except StopIteration:
                raise  # how Keras says that the data has ended
            except BaseException as error:
                if not _is_end_of_data(error):
                    on_exception(error, in_step)
                raise

        object.__setattr__(owner, name, watched)

        def undo() -> None:
            if vars(owner).get(name) is not watched:
                return  # compiled anew in the meantime
            if own:
                object.__setattr__(owner, name, inner)
            else:
                object.__delattr__(owner, name)

        self._undo.append(undo)


_HOOKS = (
    "on_epoch_begin",
    "on_epoch_end",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_train_end",
)


def _is_end_of_data(error: BaseException) -> bool:
    return type(error).__name__ == "OutOfRangeError"


def _callback_list() -> Any:
    """The list that is calling our `on_train_begin`, found among the callers."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if type(caller).__name__ == "CallbackList":
            return caller
        frame = frame.f_back
    return None
