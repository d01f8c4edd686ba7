"""Depth `predict`: compare the outputs of the model that stock Keras loaded with the snapshot's.

This runs in the child. A second model is built from the captured tensors, whose digests were
computed in memory, and both models are called with one batch. On a CPU, equal numbers give
equal bits.
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
from keras_savekit.model.live_variables import variables_by_role
from keras_savekit.model.rebuild import StoredModel, rebuild
from keras_savekit.store.manifest import Finding, Manifest
from keras_savekit.verify.loader import probe
from keras_savekit.verify.loader.error_text import error_text_of

_ROLE_NAMES: dict[Role, str] = {
    "asset": "vocabularies",
    "computed": "what layers save by themselves",
}

Output = tuple[str, tuple[int, ...], bytes]


class UnansweredError(Exception):
    """Why the outputs cannot be compared."""


def compare(stock: Any, path: Path, manifest: Manifest, given: Path | None) -> Iterator[Finding]:
    """Yield a finding if the outputs differ.

    stock: the model that stock Keras loaded from the checkpoint at `path`.
    given: the path of a file with a batch; the file may not exist.

    Raises UnansweredError if the model cannot be called, and MemoryError.
    """
    _require_read(manifest)
    snapshot = _captured_model(path, manifest)
    seeds = [variable.numpy() for variable in variables_by_role(snapshot)["seed"]]
    batch, expected = _first_outputs(snapshot, _batches(snapshot, given))
    try:
        found = _outputs(_with_seeds(stock, seeds), batch)
        what = "gives other outputs on the probe batch"
    except Exception as error:  # noqa: BLE001 - any error of the model is a result
        found, what = None, f"fails on the probe batch: {error_text_of(error)}"
    if found == expected:
        return
    if _outputs(_with_seeds(_captured_model(path, manifest), seeds), batch) != expected:
        raise UnansweredError("the model gives other outputs each time it is loaded and called")
    yield Finding("predict", manifest.model_file, f"what stock Keras loads {what}")


def _require_read(manifest: Manifest) -> None:
    """Raise UnansweredError if stock Keras does not read all that outputs depend on."""
    roles = {entry.role for entry in manifest.tensors}
    not_read = format_of(Path(manifest.model_file)).stock_loses
    lost = " and ".join(_ROLE_NAMES[role] for role in not_read if role in roles)
    if lost:
        raise UnansweredError(f"stock Keras does not read {lost} from {manifest.model_file}")


def _with_seeds(model: Any, seeds: list[Any]) -> Any:
    """Set the states of seed generators and recurrent layers, which no stock file contains."""
    for variable, value in zip(variables_by_role(model)["seed"], seeds, strict=True):
        variable.assign(value)
    return model


def _captured_model(path: Path, manifest: Manifest) -> Any:
    """Build the model from the captured tensors."""
    try:
        return rebuild(StoredModel.checkpoint(path, manifest), compile=False, safe_mode=True)
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
        raise UnansweredError("the inputs of the model are not known: give SaveKit(probe=)")
    try:
        shape = model.input
    except (AttributeError, ValueError):  # a Sequential that was never called has one input
        shape = model.inputs[0]
    for values in probe.generate_batches(keras.tree.flatten(shape)):
        yield keras.tree.pack_sequence_as(shape, values)


def _first_outputs(model: Any, batches: Iterator[Any]) -> tuple[Any, list[Output]]:
    """Return the first batch that the model accepts, and its outputs."""
    before = [(variable, variable.numpy()) for variable in model.variables]
    text = ""
    for batch in batches:
        for variable, value in before:
            variable.assign(value)
        try:
            return batch, _outputs(model, batch)
        except Exception as error:  # noqa: BLE001 - the next batch may fit
            text = text or error_text_of(error)
    raise UnansweredError(f"the model does not accept the probe batch: {text}")


def _outputs(model: Any, batch: Any) -> list[Output]:
    """Return the outputs of the model, bit for bit."""
    keras.utils.set_random_seed(probe.SEED)
    inputs = keras.tree.map_structure(keras.ops.convert_to_tensor, batch)
    answer = keras.tree.flatten(model(inputs, training=False))
    values = (np.asarray(keras.ops.convert_to_numpy(output)) for output in answer)
    return [(value.dtype.name, value.shape, _bits(value)) for value in values]


def _bits(value: Array) -> bytes:
    return b"\0".join(value.flat) if value.dtype == object else value.tobytes()
