"""Assemble the state of a training, which a checkpoint keeps beside the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keras_savekit.backend import random_state
from keras_savekit.base.moment import Moment
from keras_savekit.data.source import Source
from keras_savekit.fit.log_reader import Epoch
from keras_savekit.fit.steering import is_interrupted, is_stopped


@dataclass(frozen=True, slots=True)
class Settings:
    """What does not change while a `fit` runs.

    epochs: as requested of `fit`.
    source: of the data, where its order is known.
    optimizer: the optimizer's settings as the user's code made them.
    """

    epochs: int
    source: Source | None
    optimizer: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class TrainingState:
    """What the session knows of the training, beside the moment.

    length: batches in an epoch, if that is known.
    history: each epoch with its logs.
    consistent: whether no step is half done.
    """

    settings: Settings
    length: int | None
    history: Sequence[Epoch]
    consistent: bool

    def values(self, model: Any, now: Moment, memory: Mapping[str, float]) -> dict[str, Any]:
        """Return the values for the checkpoint, without those of callbacks.

        memory: what the triggers remember.
        """
        source = self.settings.source
        return {
            "epoch": now.epoch,
            "batch": now.batch,
            "step": now.step,
            "seconds": now.seconds,
            "memory": dict(memory),
            "history": list(self.history),  # written later, when more epochs may have ended
            "data": source.identity if source is not None else None,
            "consistent": self.consistent,
            "randomness": random_state.state(),
            "epochs": self.settings.epochs,
            "length": self.length,
            "stopped": is_stopped(model) and not is_interrupted(model),
            "optimizer": self.settings.optimizer,
        }
