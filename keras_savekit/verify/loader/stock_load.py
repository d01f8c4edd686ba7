"""Depths `load` and `predict`, in the child: stock Keras loads the files, every weight is compared.

Building a model takes half of a load. In a training its configuration stays the same, byte
by byte: the model that Keras built of it is kept, and Keras's own `load_weights` gives it
the weights of the next checkpoint. Where that finds a fault, building anew has the last word.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_savekit.base.tensors import as_array
from keras_savekit.formats.config_digest import digest
from keras_savekit.formats.hdf5.fill import tensor_digest
from keras_savekit.model.saving_walk import deserialized, serialized
from keras_savekit.store.manifest import Depth, Finding, Manifest, read_manifest
from keras_savekit.verify.loader.configuration import Configuration
from keras_savekit.verify.loader.error_text import error_text_of

Origin = tuple[str, str, Configuration]


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found, down to which depth, and why not deeper."""

    reached: Depth
    findings: tuple[Finding, ...] = ()
    note: str = ""


class StockLoader:
    """Checks checkpoints, one after another. Between two, garbage is to be collected."""

    def __init__(self) -> None:
        self._kept: tuple[Origin, Any] | None = None

    def check(self, path: Path, depth: Depth, probe: str | None) -> Checked:
        """Load the checkpoint with stock Keras, and ask the model if the depth is `predict`.

        probe: a file with a batch to ask it with, if it exists.

        Raises MemoryError, which accuses no checkpoint.
        """
        manifest = read_manifest(path)
        origin = (manifest.model_file, manifest.architecture, Configuration.of(path, manifest))
        if depth == "load" and self._fills_the_kept(origin, path, manifest):
            return Checked("load")
        self._forget()
        try:
            return self._check_anew(origin, path, manifest, depth, probe)
        finally:
            if self._kept is None:
                self._forget()

    def _fills_the_kept(self, origin: Origin, path: Path, manifest: Manifest) -> bool:
        if self._kept is None or self._kept[0] != origin:
            return False
        (_, model), self._kept = self._kept, None
        try:
            model.load_weights(path / manifest.model_file)
        except Exception as error:  # noqa: BLE001 - building anew tells
            error_text_of(error)
            return False
        if any(_compare(model, manifest)):
            return False
        self._keep(origin, model)
        return True

    def _check_anew(
        self, origin: Origin, path: Path, manifest: Manifest, depth: Depth, probe: str | None
    ) -> Checked:
        *_, configuration = origin
        refused = configuration.code_inside()
        if refused:
            return Checked("structure", note=f"stock Keras alone cannot load it: {refused}")
        code = sorted(set(configuration.code_of_its_own()))
        try:
            model = _load(path, manifest, configuration)
        except Exception as error:  # noqa: BLE001 - whatever Keras says is the outcome, and is told
            said = error_text_of(error)
            if code:
                names = ", ".join(code[:3])
                note = f"stock Keras alone cannot load it: it needs {names} ({said})"
                return Checked("structure", note=note)
            what = f"stock Keras cannot load it: {said}"
            return Checked("load", (Finding("load", manifest.model_file, what),))
        findings = (
            *_compare(model, manifest),
            *_compare_architecture(model, configuration, manifest),
        )
        if findings:
            return Checked("load", findings)
        if depth == "predict":
            return _predict(model, path, manifest, Path(probe) if probe else None)
        # Of a `.keras` file `load_model` reads more than weights; other code may do anything.
        if not code and not manifest.model_file.endswith(".keras"):
            self._keep(origin, model)
        return Checked("load")

    def _keep(self, origin: Origin, model: Any) -> None:
        """For the next checkpoint, without what was loaded: else that could pass for the next's."""
        _blank(model)
        self._kept = origin, model

    def _forget(self) -> None:
        self._kept = None
        keras.backend.clear_session()


def _blank(model: Any) -> None:
    """Fill the weights with what differs from all that is saved: NaN, or each bit turned.

    All that are NaN share the memory of the largest.
    """
    largest: dict[str, int] = {}
    for weight in model.weights:
        if weight.dtype != "bool" and not keras.backend.is_int_dtype(weight.dtype):
            size = math.prod(weight.shape)
            largest[weight.dtype] = max(size, largest.get(weight.dtype, 0))
    nan = {dtype: keras.ops.full((size,), math.nan, dtype) for dtype, size in largest.items()}
    for weight in model.weights:
        if weight.dtype in nan:
            part = nan[weight.dtype][: math.prod(weight.shape)]
            weight.assign(keras.ops.reshape(part, weight.shape))
        else:
            weight.assign(np.invert(keras.ops.convert_to_numpy(weight)))


def _predict(model: Any, path: Path, manifest: Manifest, probe: Path | None) -> Checked:
    from keras_savekit.verify.loader.predict import UnansweredError, compare

    try:
        return Checked("predict", tuple(compare(model, path, manifest, probe)))
    except UnansweredError as error:
        return Checked("load", note=f"not asked for outputs: {error}")


def _load(path: Path, manifest: Manifest, configuration: Configuration) -> Any:
    file = path / manifest.model_file
    if manifest.save == "model":
        return keras.models.load_model(file)
    model = keras.models.model_from_json(configuration.model)
    model.load_weights(file)
    return model


def _compare(model: Any, manifest: Manifest) -> Iterator[Finding]:
    promised = [entry for entry in manifest.tensors if entry.role == "weight"]
    loaded = model.weights
    if len(promised) != len(loaded):
        yield Finding(
            "load",
            manifest.model_file,
            f"{len(promised)} weights saved, {len(loaded)} after loading",
        )
    for entry, weight in zip(promised, loaded, strict=False):
        value = as_array(weight.value.read_value())
        if tuple(value.shape) != entry.shape or tensor_digest(value) != entry.digest:
            yield Finding("load", entry.places[0], f"{entry.name} differs after loading")


def _compare_architecture(
    model: Any, configuration: Configuration, manifest: Manifest
) -> Iterator[Finding]:
    """Described again, it is what was saved, or what Keras makes of that on any way."""
    loaded = digest(json.loads(json.dumps(serialized(model))))
    if not manifest.architecture or loaded == manifest.architecture:
        return
    # Older versions give operations the names that come next, as they did when it was loaded.
    keras.backend.clear_session()
    again = serialized(deserialized(configuration.architecture))
    if loaded != digest(json.loads(json.dumps(again))):
        yield Finding("load", manifest.model_file, "its architecture differs after loading")
