"""Find out by trying whether a training can be stopped and resumed exactly.

Trains the same steps twice in this process: once without a stop, and once stopped in
the middle and resumed from a checkpoint by a new model. Compares every variable after
every step.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from keras_savekit.base.digests import tensor_digest
from keras_savekit.base.tensors import as_array
from keras_savekit.callbacks import SaveKit
from keras_savekit.data.source import source_of
from keras_savekit.errors import DataError
from keras_savekit.model.live_variables import variables_by_role

SEED = 20
FIT = {"shuffle": False, "verbose": 0}


@dataclass(frozen=True, slots=True)
class Determinism:
    """The result of a comparison.

    steps: how many were compared.
    stopped_after: the step after which one of the two trainings was stopped.
    first: the first variable that differs, as "step 7: dense/kernel"; None if
        everything was equal, bit for bit.
    reason: the cause of the difference, as far as it is known.
    """

    steps: int
    stopped_after: int
    first: str | None
    reason: str = ""

    @property
    def exact(self) -> bool:
        """Whether every variable was equal after every step."""
        return self.first is None

    def __str__(self) -> str:
        if self.first is None:
            return f"exact: {self.steps} steps, stopped after {self.stopped_after}, no difference"
        return f"not exact: {self.first} is the first that differs; {self.reason}"


class _Stop(Exception):  # noqa: N818 - an event, not an error
    """Ends a training in the middle."""


class _Digests(keras.callbacks.Callback):  # type: ignore[misc]
    """Record the digest of every variable after every step; stop the training after some."""

    def __init__(self, done: int, stop_after: int) -> None:
        super().__init__()
        self.step = done
        self.by_step: dict[int, dict[str, str]] = {}
        self._stop_after = stop_after

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.step += self.model.steps_per_execution
        self.by_step[self.step] = _digests(self.model)
        if self.step >= self._stop_after:
            raise _Stop

    def get_state(self) -> dict[str, int]:
        return {"step": self.step}

    def set_state(self, state: Mapping[str, int]) -> None:
        self.step = state["step"]


def check_determinism(
    model_fn: Callable[[], Any], data_fn: Callable[[], Any], *, steps: int = 20, **fit: Any
) -> Determinism:
    """Find out whether a training would be resumed exactly.

    model_fn: returns a new compiled model.
    data_fn: returns new data, from `keras_savekit.resumable`.
    steps: optimizer updates to compare, 2 or more. One training is stopped after half
        of them.
    fit: more arguments for `fit`, such as class_weight.

    Sets the process's random seeds, and leaves no file on the disk. Raises DataError for
    fewer than 2 steps, and every error of `SaveKit` and `fit`.
    """
    if steps < 2:
        raise DataError(f"steps must be 2 or more, got {steps}")
    half = steps // 2
    straight = _train(model_fn, data_fn, None, _Digests(0, steps), fit)
    again = _train(model_fn, data_fn, None, _Digests(0, half), fit)
    early = _first_difference(straight, again)
    if early is not None:
        return Determinism(
            steps, half, early,
            "two trainings from the same seeds differ before anything is stopped: "
            "try tf.config.experimental.enable_op_determinism()",
        )  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        _train(model_fn, data_fn, path, _Digests(0, half), fit)
        late = _train(model_fn, data_fn, path, _Digests(half, steps), fit)
    return Determinism(
        steps, half, _first_difference(straight, late),
        "something that training depends on is not part of a checkpoint",
    )  # fmt: skip


def _train(
    model_fn: Callable[[], Any],
    data_fn: Callable[[], Any],
    directory: Path | None,
    digests: _Digests,
    fit: Mapping[str, Any],
) -> dict[int, dict[str, str]]:
    keras.utils.set_random_seed(SEED)
    model, data = model_fn(), data_fn()
    callbacks: list[Any] = [digests]
    if directory is not None:
        policy = {"plans": [{"name": "latest", "when": "exception", "verify": "structure"}]}
        callbacks.append(SaveKit(policy, directory=directory, data=data))
    else:
        source_of(data).start(0, 0)
    with suppress(_Stop):
        model.fit(data, epochs=10**6, callbacks=callbacks, **{**FIT, **fit})
    return digests.by_step


def _digests(model: Any) -> dict[str, str]:
    found = {}
    for role, variables in variables_by_role(model).items():
        for index, variable in enumerate(variables):
            value = as_array(variable.value.read_value())
            found[f"{role} {index}: {variable.path}"] = tensor_digest(value)
    return found


def _first_difference(
    one: Mapping[int, Mapping[str, str]], other: Mapping[int, Mapping[str, str]]
) -> str | None:
    for step in sorted({*one} & {*other}):
        # By position: Keras gives each model new numbers in its names.
        for (name, was), now in zip(one[step].items(), other[step].values(), strict=True):
            if was != now:
                return f"step {step}: {name}"
    return None
