"""A checkpoint on its way back into a `fit`.

When training goes on from an epoch's beginning, everything is put back once,
after every callback's `on_train_begin`. In the middle of an epoch it is put back
once more after every callback's `on_epoch_begin`, which in the training that was
stopped had happened long before: a schedule has set the learning rate again,
`fit` has reset the metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras_savekit.policy.moment import Moment
from keras_savekit.resume import Found
from keras_savekit.store.manifest import Role
from keras_savekit.training import callback_state, randomness
from keras_savekit.training.callback_state import Memory
from keras_savekit.training.restore import assign

RESTORED: tuple[Role, ...] = ("weight", "optimizer", "seed")


class Restoration:
    """Puts `found` back into a model and the callbacks it is trained with.

    moment: where training goes on, which is the checkpoint's own or an epoch's beginning.
    with_metrics: whether the checkpoint's metrics are those of the model.

    Everything was compared before; nothing here can fail half way.
    """

    def __init__(
        self,
        found: Found,
        moment: Moment,
        model: Any,
        callbacks: Sequence[Any],
        *,
        with_metrics: bool,
    ) -> None:
        self._found = found
        self._model = model
        self._callbacks = callbacks
        self._with_metrics = with_metrics
        self._in_mid_epoch = moment.batch > 0

    def training_begins(self) -> None:
        """Every other callback has begun."""
        self._put_back(RESTORED)

    def epoch_begins(self) -> None:
        """The first epoch of this session has begun in every other callback."""
        if self._in_mid_epoch:
            self._put_back((*RESTORED, "metric") if self._with_metrics else RESTORED)

    def _put_back(self, roles: tuple[Role, ...]) -> None:
        assign(self._model, self._found.tensors, roles)
        randomness.restore(self._found.state["randomness"])
        callback_state.put_back(self._callbacks, memory_of(self._found))


def memory_of(found: Found) -> Memory:
    """What callbacks remembered when the checkpoint was saved."""
    names = [entry for entry in found.checkpoint.manifest.tensors if entry.role == "callback"]
    arrays: Mapping[str, Any] = {
        entry.name: found.tensors[entry.role, entry.index] for entry in names
    }
    return Memory(found.state["callbacks"], arrays)
