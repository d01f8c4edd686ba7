"""Decide what to restore of a checkpoint when the code has changed since it was saved.

If model, optimizer and data are the same, everything is restored. If not, the policy's
`resume.on_mismatch` decides: nothing, the weights that fit, or everything that fits. The
result is complete and in the model's order: restoring it needs no further comparison.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from keras_savekit.base.roles import Role
from keras_savekit.data.source import Source
from keras_savekit.errors import MismatchError
from keras_savekit.model import differences
from keras_savekit.model.assign import describe_mismatch, find_differences, match_weights
from keras_savekit.model.live_variables import variables_by_role
from keras_savekit.policy.resume import OnMismatch
from keras_savekit.resume.load import LoadedCheckpoint
from keras_savekit.resume.position import data_difference
from keras_savekit.resume.report import Level

RESTORED: tuple[Role, ...] = ("weight", "optimizer", "seed")

_REMEDY = (
    "nothing was changed; use another directory, or the model that was trained here, or say in the"
    " policy what to restore: `resume: {on_mismatch: weights}` restores the weights that fit and"
    " starts with a new optimizer, `resume: {on_mismatch: ignore}` restores everything that fits"
)
_SUBJECTS = {"optimizer": "the optimizer's variables", "seed": "seed generators and states"}


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What of a checkpoint is restored.

    loaded: the checkpoint, with every tensor that the model has of the `roles`.
    roles: what is restored.
    level: the best level that the differences allow.
    reasons: what differs, and what that changes.
    """

    loaded: LoadedCheckpoint
    roles: tuple[Role, ...]
    level: Level
    reasons: tuple[str, ...]


def reconcile(
    loaded: LoadedCheckpoint,
    model: Any,
    settings: Mapping[str, Any] | None,
    roles: tuple[Role, ...],
    *,
    source: Source | None,
    on_mismatch: OnMismatch,
) -> Reconciled:
    """Compare a checkpoint with the model, and decide what to restore of it.

    settings: of the optimizer, serialized.
    roles: what is restored if nothing differs.
    source: of the data, if its order is known; a change of the data is a difference too.
    on_mismatch: see the policy's `Resume`.

    Raises MismatchError, naming what differs, for "error", and if no weight fits.
    """
    manifest, where = loaded.checkpoint.manifest, str(loaded.checkpoint.path)
    variables = find_differences(model, manifest, roles)
    changed = _changed_settings(loaded, settings) if "optimizer" in roles else {}
    words = [describe_mismatch(role, found) for role, found in variables.items()]
    if changed and "optimizer" not in variables:
        listed = differences.format_list(list(changed.values()))
        words.append(f"the training has other settings now:{listed}")
    words += filter(None, [data_difference(loaded, source)])
    if not words:
        return Reconciled(loaded, roles, "exact", ())
    tensors, matched = match_weights(model, manifest, loaded.tensors)
    if on_mismatch == "error" or not matched:
        words += [] if matched else ["no weight fits the model"]
        raise MismatchError("\nand ".join(words), where, _REMEDY)
    if matched < len(tensors):
        words.append(f"{len(tensors) - matched} of {len(tensors)} weights start from scratch")
    fitting = replace(loaded, tensors={**loaded.tensors, **tensors})
    if on_mismatch == "weights":
        words.append("the policy says `on_mismatch: weights`: only weights were restored")
        return Reconciled(fitting, ("weight",), "weights only", tuple(words))
    kept = tuple(role for role in roles if role == "weight" or role not in variables)
    if "class_name" in changed:
        kept = tuple(role for role in kept if role != "optimizer")
    elif "learning_rate" in changed and "optimizer" in kept:
        fitting = replace(fitting, tensors={**fitting.tensors, **_learning_rate_of(model)})
    words += [f"{_SUBJECTS[role]} start from scratch" for role in roles if role not in kept]
    return Reconciled(fitting, kept, "position", tuple(words))


def _changed_settings(
    loaded: LoadedCheckpoint, settings: Mapping[str, Any] | None
) -> dict[str, str]:
    rates = [
        loaded.tensors[entry.role, entry.index]
        for entry in loaded.checkpoint.manifest.tensors
        if entry.role == "optimizer" and _is_learning_rate(entry.name)
    ]
    rate = float(rates[0]) if rates else None
    return differences.compare_optimizers(loaded.state["optimizer"], settings, rate)


def _learning_rate_of(model: Any) -> dict[tuple[Role, int], Any]:
    return {
        ("optimizer", index): variable.numpy()
        for index, variable in enumerate(variables_by_role(model)["optimizer"])
        if _is_learning_rate(variable.path)
    }


def _is_learning_rate(path: str) -> bool:
    return path.rpartition("/")[2] == "learning_rate"
