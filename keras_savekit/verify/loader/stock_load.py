"""Load checkpoints with stock Keras in the child, and compare each weight (`load`, `predict`).

If a weight differs, the checkpoint is not portable. This is no evidence of damage.

Building the model takes half of the time. During a training the configuration does not
change, so the model is kept, and Keras's `load_weights` loads the next checkpoint into it. If
that fails or a weight differs, the model is built again, and only that result counts.
"""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_savekit.base.digests import tensor_digest
from keras_savekit.base.tensors import as_array
from keras_savekit.formats.config_digest import digest
from keras_savekit.formats.registry import format_of
from keras_savekit.model.rebuild import StoredModel, rebuild
from keras_savekit.model.saving_walk import (
    deserialize_model,
    serialize_model,
)
from keras_savekit.store.manifest import Depth, Finding, Manifest
from keras_savekit.store.manifest_json import read_manifest
from keras_savekit.verify.loader.error_text import error_text_of
from keras_savekit.verify.loader.saved_config import SavedConfig

Origin = tuple[str, str, SavedConfig]

CODE = "import or register that code where you load it; a resume, which has it, is not affected"
_USE_YOUR_MODEL = (
    "keras_savekit.load_weights loads it into the model that your code builds, and a resume "
    "continues from it"
)
OURS = f"keras_savekit.load_model loads it; {_USE_YOUR_MODEL}"
OURS_DIFFERS = f"keras_savekit.load_model gives other weights too; {_USE_YOUR_MODEL}"
NOT_OURS = f"keras_savekit.load_model does not load it either; {_USE_YOUR_MODEL}"
OTHER_OUTPUTS = (
    "keras_savekit.load_model gives other outputs from the same weights: "
    "compare both with the model that your code builds"
)


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The depth that was passed, what is not portable, and a note for the user."""

    reached: Depth
    not_portable: tuple[Finding, ...] = ()
    note: str = ""


class StockLoader:
    """Loads checkpoints one after another. The caller collects garbage after each."""

    def __init__(self) -> None:
        self._kept: tuple[Origin, Any] | None = None
        self._ours: tuple[Origin, str] | None = None  # the last note, and what it is about

    def load(self, path: Path, depth: Depth, probe: str | None) -> LoadResult:
        """Load the checkpoint with stock Keras, and call the model if the depth is `predict`.

        probe: the path of a file with a batch; the file may not exist.

        Raises MemoryError, which is no finding about the checkpoint.
        """
        manifest = read_manifest(path)
        origin = (manifest.model_file, manifest.architecture, SavedConfig.of(path, manifest))
        if depth == "load" and self._load_into_kept(origin, path, manifest):
            return LoadResult("load")
        self._forget()
        try:
            return self._build_and_check(origin, path, manifest, depth, probe)
        finally:
            if self._kept is None:
                self._forget()

    def _load_into_kept(self, origin: Origin, path: Path, manifest: Manifest) -> bool:
        if self._kept is None or self._kept[0] != origin:
            return False
        (_, model), self._kept = self._kept, None
        try:
            model.load_weights(path / manifest.model_file)
        except Exception as error:  # noqa: BLE001 - building again decides
            error_text_of(error)
            return False
        if any(_compare(model, manifest)):
            return False
        self._keep(origin, model)
        return True

    def _build_and_check(
        self, origin: Origin, path: Path, manifest: Manifest, depth: Depth, probe: str | None
    ) -> LoadResult:
        *_, configuration = origin
        refused = configuration.why_unsafe()
        if refused:
            return _needs_code(manifest, refused)
        code = sorted(set(configuration.custom_code()))
        try:
            model = _load(path, manifest, configuration)
        except Exception as error:  # noqa: BLE001 - any error of Keras is a result
            text = error_text_of(error)
            if code:
                return _needs_code(manifest, f"it needs {', '.join(code[:3])} ({text})")
            what = f"stock Keras cannot load it: {text}"
            finding = Finding("load", manifest.model_file, what)
            return LoadResult("structure", (finding,), self._note(origin, path, manifest))
        findings = (
            *_compare(model, manifest),
            *_compare_architecture(model, configuration, manifest),
        )
        if findings:
            del model
            return LoadResult("structure", findings, self._note(origin, path, manifest))
        if depth == "predict":
            return _predict(model, path, manifest, Path(probe) if probe else None)
        # Custom code may read more than weights.
        if not code and format_of(path / manifest.model_file).weights_are_all:
            self._keep(origin, model)
        return LoadResult("load")

    def _note(self, origin: Origin, path: Path, manifest: Manifest) -> str:
        """Say whether our `load_model` loads it. Each configuration is tried once."""
        if self._ours is None or self._ours[0] != origin:
            self._forget()
            gc.collect()
            self._ours = origin, _try_own_reader(path, manifest)
        return self._ours[1]

    def _keep(self, origin: Origin, model: Any) -> None:
        """Keep the model for the next checkpoint, with other values in its weights."""
        _blank(model)
        self._kept = origin, model

    def _forget(self) -> None:
        self._kept = None
        keras.backend.clear_session()


def _needs_code(manifest: Manifest, why: str) -> LoadResult:
    what = f"stock Keras alone cannot load it: {why}"
    return LoadResult("structure", (Finding("code", manifest.model_file, what),), CODE)


def _try_own_reader(path: Path, manifest: Manifest) -> str:
    try:
        model = rebuild(StoredModel.checkpoint(path, manifest), compile=False, safe_mode=True)
    except Exception as error:  # noqa: BLE001 - any error means that it does not load
        error_text_of(error)
        return NOT_OURS
    return OURS_DIFFERS if any(_compare(model, manifest)) else OURS


def _blank(model: Any) -> None:
    """Fill the weights with values that differ from the saved ones: NaN, or inverted bits.

    A weight that the next load does not overwrite then differs from what was saved. All NaN
    values share the memory of the largest weight.
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


def _predict(model: Any, path: Path, manifest: Manifest, probe: Path | None) -> LoadResult:
    from keras_savekit.verify.loader.predict import UnansweredError, compare

    try:
        findings = tuple(compare(model, path, manifest, probe))
        return LoadResult("load", findings, OTHER_OUTPUTS) if findings else LoadResult("predict")
    except UnansweredError as error:
        return LoadResult("load", note=f"outputs were not compared: {error}")


def _load(path: Path, manifest: Manifest, configuration: SavedConfig) -> Any:
    file = path / manifest.model_file
    if not format_of(file).architecture_file:
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
    model: Any, configuration: SavedConfig, manifest: Manifest
) -> Iterator[Finding]:
    """Compare the architecture with what was saved, or with what Keras itself makes of that."""
    loaded = digest(json.loads(json.dumps(serialize_model(model))))
    if not manifest.architecture or loaded == manifest.architecture:
        return
    # Older versions of Keras number operations from a counter, which is reset here.
    keras.backend.clear_session()
    again = serialize_model(deserialize_model(configuration.architecture))
    if loaded != digest(json.loads(json.dumps(again))):
        yield Finding("load", manifest.model_file, "its architecture differs after loading")
