"""What of a checkpoint a training takes when its code has changed since.

A checkpoint of the same model, optimizer and data is taken whole. Of another one
the policy's `resume.on_mismatch` says: nothing, the weights that fit, or all that
fits. What is taken is complete and in the model's order, so that whoever puts it
back need not know that anything differed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from keras_savekit.base.roles import Role
from keras_savekit.data.source import Source
from keras_savekit.errors import MismatchError
from keras_savekit.model import differences
from keras_savekit.model.assign import belongs, differing, weights_that_fit
from keras_savekit.model.structure import variables_by_role
from keras_savekit.policy.resume import OnMismatch
from keras_savekit.resume.select import Found, Level, changed_data

_REMEDY = (
    "nothing was changed; use another directory, or the model that was trained here, or say in the"
    " policy what to take of it: `resume: {on_mismatch: weights}` takes the weights that fit and"
    " begins with a new optimizer, `resume: {on_mismatch: ignore}` takes all that fits"
)


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What a training takes of a checkpoint.

    found: the checkpoint; of the tensors of `roles` every one that the model has.
    roles: what is put back.
    level: not better than this.
    reasons: what differs, and what came of it.
    """

    found: Found
    roles: tuple[Role, ...]
    level: Level
    reasons: tuple[str, ...]


def taken(
    found: Found,
    model: Any,
    settings: Mapping[str, Any] | None,
    roles: tuple[Role, ...],
    *,
    source: Source | None,
    on_mismatch: OnMismatch,
) -> Reconciled:
    """What to take of `found`; see `Resume` for `on_mismatch`.

    settings: of the optimizer, serialized.
    roles: what would be put back if nothing differed.
    source: of the data, where its order is known; other data differ too.

    Raises MismatchError, naming what differs, under "error", and also if no weight fits.
    """
    manifest, where = found.checkpoint.manifest, str(found.checkpoint.path)
    variables = differing(model, manifest, roles)
    changed = _changed_settings(found, settings) if "optimizer" in roles else {}
    words = [belongs(role, each) for role, each in variables.items()]
    if changed and "optimizer" not in variables:
        listed = differences.listed(list(changed.values()))
        words.append(f"the training has other settings now:{listed}")
    words += filter(None, [changed_data(found, source)])
    if not words:
        return Reconciled(found, roles, "exact", ())
    tensors, fitting = weights_that_fit(model, manifest, found.tensors)
    if on_mismatch == "error" or not fitting:
        words += [] if fitting else ["no weight fits the model"]
        raise MismatchError("\nand ".join(words), where, _REMEDY)
    if fitting < len(tensors):
        words.append(f"{len(tensors) - fitting} of {len(tensors)} weights begin anew")
    some = replace(found, tensors={**found.tensors, **tensors})
    if on_mismatch == "weights":
        words.append("the policy says `on_mismatch: weights`: only weights were taken")
        return Reconciled(some, ("weight",), "weights only", tuple(words))
    kept = tuple(role for role in roles if role == "weight" or role not in variables)
    if "class_name" in changed:
        kept = tuple(role for role in kept if role != "optimizer")
    elif "learning_rate" in changed and "optimizer" in kept:
        some = replace(some, tensors={**some.tensors, **_rate_of(model)})
    words += [f"{_CALLED[role]} begin anew" for role in roles if role not in kept]
    return Reconciled(some, kept, "position", tuple(words))


_CALLED = {"optimizer": "the optimizer's variables", "seed": "seed generators and states"}


def _changed_settings(found: Found, settings: Mapping[str, Any] | None) -> dict[str, str]:
    rates = [
        found.tensors[entry.role, entry.index]
        for entry in found.checkpoint.manifest.tensors
        if entry.role == "optimizer" and _is_rate(entry.name)
    ]
    rate = float(rates[0]) if rates else None
    return differences.of_optimizers(found.state["optimizer"], settings, rate)


def _rate_of(model: Any) -> dict[tuple[Role, int], Any]:
    return {
        ("optimizer", index): variable.numpy()
        for index, variable in enumerate(variables_by_role(model)["optimizer"])
        if _is_rate(variable.path)
    }


def _is_rate(path: str) -> bool:
    return path.rpartition("/")[2] == "learning_rate"
