"""Restore a checkpoint into a running `fit`.

If training resumes at the start of an epoch, everything is restored once, after every
callback's `on_train_begin`. In the middle of an epoch it is restored again after every
callback's `on_epoch_begin`: in the stopped training, that hook had run long before the
checkpoint, and by now a schedule has set the learning rate and `fit` has reset the metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras_savekit.base.moment import Moment
from keras_savekit.base.roles import Role
from keras_savekit.fit import callback_state
from keras_savekit.fit.callback_state import CallbackStates
from keras_savekit.resume.load import LoadedCheckpoint
from keras_savekit.resume.reconcile import Reconciled
from keras_savekit.resume.restore import changed_assets, restore_model


class Restoration:
    """Restores what was reconciled into a model and its callbacks.

    moment: where training resumes: the checkpoint's own moment, or the start of its epoch.
    with_metrics: whether the checkpoint's metrics are those of the model.

    Everything was compared before. If a layer refuses to load, nothing is changed.
    """

    def __init__(
        self,
        reconciled: Reconciled,
        moment: Moment,
        model: Any,
        callbacks: Sequence[Any],
        *,
        with_metrics: bool,
    ) -> None:
        self._reconciled = reconciled
        self._model = model
        self._callbacks = callbacks
        self._with_metrics = with_metrics
        self._in_mid_epoch = moment.batch > 0

    def restore_at_train_begin(self) -> None:
        """Restore after every other callback's `on_train_begin`.

        Raises MismatchError, and has then changed nothing, if a layer refuses what it saved.
        """
        assets = changed_assets(self._reconciled, self._model)
        self._restore(self._reconciled.roles, assets)

    def restore_at_epoch_begin(self) -> None:
        """Restore again after every other callback's first `on_epoch_begin`, if in mid-epoch."""
        if self._in_mid_epoch:
            roles = self._reconciled.roles
            self._restore((*roles, "metric") if self._with_metrics else roles, {})

    def _restore(self, roles: tuple[Role, ...], assets: Mapping[str, bytes]) -> None:
        restore_model(self._reconciled, self._model, roles, assets)
        if self._reconciled.level != "weights only":
            callback_state.restore(self._callbacks, callback_states(self._reconciled.loaded))


def callback_states(loaded: LoadedCheckpoint) -> CallbackStates:
    """What callbacks remembered when the checkpoint was saved."""
    entries = [entry for entry in loaded.checkpoint.manifest.tensors if entry.role == "callback"]
    arrays: Mapping[str, Any] = {
        entry.name: loaded.tensors[entry.role, entry.index] for entry in entries
    }
    return CallbackStates(loaded.state["callbacks"], arrays)
