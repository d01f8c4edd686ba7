"""Depth `predict`: what stock Keras loaded gives the outputs that the snapshot gives.

In the child, and never on the thread that trains: another model is made of the tensors
that were captured, each equal to the digest taken of it in memory, and both are asked
with one batch. On a CPU the same numbers give the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_savekit.base.roles import Role
from keras_savekit.base.tensors import Array
from keras_savekit.errors import CheckpointError, SavekitError
from keras_savekit.formats.registry import format_of
from keras_savekit.model.rebuild import Stored, rebuild
from keras_savekit.model.structure import variables_by_role
from keras_savekit.store.manifest import Finding, Manifest
from keras_savekit.verify.loader import probe
from keras_savekit.verify.loader.error_text import error_text_of

_CALLED: dict[Role, str] = {"asset": "vocabularies", "computed": "what layers save by themselves"}

Output = tuple[str, tuple[int, ...], bytes]


class UnansweredError(Exception):
    """Why the depth is not reached."""


def compare(stock: Any, path: Path, manifest: Manifest, given: Path | None) -> Iterator[Finding]:
    """How the outputs differ, if they do.

    stock: what stock Keras has loaded of the checkpoint at `path`.
    given: where a batch lies, if one does.

    Raises UnansweredError if the model cannot be asked, and MemoryError.
    """
    _require_read(manifest)
    snapshot = _snapshot(path, manifest)
    seeds = [variable.numpy() for variable in variables_by_role(snapshot)["seed"]]
    batch, expected = _answered(snapshot, _batches(snapshot, given))
    try:
        found = _outputs(_seeded(stock, seeds), batch)
        said = "gives other outputs on the probe batch"
    except Exception as error:  # noqa: BLE001 - whatever the model says is the outcome
        found, said = None, f"fails on the probe batch: {error_text_of(error)}"
    if found == expected:
        return
    if _outputs(_seeded(_snapshot(path, manifest), seeds), batch) != expected:
        raise UnansweredError("the model gives other outputs each time it is loaded and asked")
    yield Finding("predict", manifest.model_file, f"what stock Keras loads {said}")


def _require_read(manifest: Manifest) -> None:
    """Raise UnansweredError if stock Keras reads less of such a file than outputs depend on."""
    roles = {entry.role for entry in manifest.tensors}
    not_read = format_of(Path(manifest.model_file)).stock_loses
    lost = " and ".join(_CALLED[role] for role in not_read if role in roles)
    if lost:
        raise UnansweredError(f"stock Keras does not read {lost} from {manifest.model_file}")


def _seeded(model: Any, seeds: list[Any]) -> Any:
    """With the states of seed generators and of recurrent layers, which no stock file has."""
    for variable, value in zip(variables_by_role(model)["seed"], seeds, strict=True):
        variable.assign(value)
    return model


def _snapshot(path: Path, manifest: Manifest) -> Any:
    """The model of the tensors that were captured."""
    try:
        return rebuild(Stored.checkpoint(path, manifest), compile=False, safe_mode=True)
    except SavekitError as error:
        raise UnansweredError(error.what) from error


def _batches(model: Any, given: Path | None) -> Iterator[Any]:
    if given is not None:
        try:
            batch = probe.read(given)
        except CheckpointError as error:
            raise UnansweredError(error.what) from error
        if batch is not None:
            yield batch
            return
    if not getattr(model, "inputs", None):
        raise UnansweredError("the model does not say what its inputs are: give SaveKit(probe=)")
    try:
        shape = model.input
    except (AttributeError, ValueError):  # of a stack of layers that was never called: it takes one
        shape = model.inputs[0]
    for values in probe.generate_batches(keras.tree.flatten(shape)):
        yield keras.tree.pack_sequence_as(shape, values)


def _answered(model: Any, batches: Iterator[Any]) -> tuple[Any, list[Output]]:
    """The first batch that the model takes, and what it says."""
    before = [(variable, variable.numpy()) for variable in model.variables]
    said = ""
    for batch in batches:
        for variable, value in before:
            variable.assign(value)
        try:
            return batch, _outputs(model, batch)
        except Exception as error:  # noqa: BLE001 - a batch that does not fit is no fault
            said = said or error_text_of(error)
    raise UnansweredError(f"the model does not take the probe batch: {said}")


def _outputs(model: Any, batch: Any) -> list[Output]:
    """What the model says, bit for bit."""
    keras.utils.set_random_seed(probe.SEED)
    asked = keras.tree.map_structure(keras.ops.convert_to_tensor, batch)
    answer = keras.tree.flatten(model(asked, training=False))
    values = (np.asarray(keras.ops.convert_to_numpy(each)) for each in answer)
    return [(each.dtype.name, each.shape, _bits(each)) for each in values]


def _bits(value: Array) -> bytes:
    return b"\0".join(value.flat) if value.dtype == object else value.tobytes()
