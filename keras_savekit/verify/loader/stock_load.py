"""Depths `load` and `predict`, in the child: stock Keras loads the files, every weight is compared.

What differs then makes a checkpoint not portable. It is no evidence of damage.

Building a model takes half of a load. In a training its configuration stays the same, byte
by byte: the model that Keras built of it is kept, and Keras's own `load_weights` gives it
the weights of the next checkpoint. Where that finds a fault, building anew has the last word.
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
from keras_savekit.errors import SavekitError
from keras_savekit.formats.config_digest import digest
from keras_savekit.formats.registry import format_of
from keras_savekit.model.rebuild import Stored, rebuild
from keras_savekit.model.saving_walk import deserialized, serialized
from keras_savekit.store.manifest import Depth, Finding, Manifest, read_manifest
from keras_savekit.verify.loader.error_text import error_text_of
from keras_savekit.verify.loader.saved_config import SavedConfig

Origin = tuple[str, str, SavedConfig]

CODE = "import or register that code where you load it; a resume, which has it, is not affected"
_INTO_YOURS = (
    "keras_savekit.load_weights loads it into the model that your code builds, and a resume "
    "continues from it"
)
OURS = f"keras_savekit.load_model loads it; {_INTO_YOURS}"
OURS_DIFFERS = f"keras_savekit.load_model gives other weights too; {_INTO_YOURS}"
NOT_OURS = f"keras_savekit.load_model does not load it either; {_INTO_YOURS}"
OTHER_OUTPUTS = (
    "keras_savekit.load_model gives other outputs from the same weights: "
    "compare both with the model that your code builds"
)


@dataclass(frozen=True, slots=True)
class Checked:
    """Which depth was passed, what is not portable, and what the user should know of it."""

    reached: Depth
    not_portable: tuple[Finding, ...] = ()
    note: str = ""


class StockLoader:
    """Checks checkpoints, one after another. Between two, garbage is to be collected."""

    def __init__(self) -> None:
        self._kept: tuple[Origin, Any] | None = None
        self._ours: tuple[Origin, str] | None = None  # what was found out for the last problem

    def check(self, path: Path, depth: Depth, probe: str | None) -> Checked:
        """Load the checkpoint with stock Keras, and ask the model if the depth is `predict`.

        probe: a file with a batch to ask it with, if it exists.

        Raises MemoryError, which accuses no checkpoint.
        """
        manifest = read_manifest(path)
        origin = (manifest.model_file, manifest.architecture, SavedConfig.of(path, manifest))
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
            return _needing_code(manifest, refused)
        code = sorted(set(configuration.code_of_its_own()))
        try:
            model = _load(path, manifest, configuration)
        except Exception as error:  # noqa: BLE001 - whatever Keras says is the outcome, and is told
            said = error_text_of(error)
            if code:
                return _needing_code(manifest, f"it needs {', '.join(code[:3])} ({said})")
            what = f"stock Keras cannot load it: {said}"
            finding = Finding("load", manifest.model_file, what)
            return Checked("structure", (finding,), self._note(origin, path, manifest))
        findings = (
            *_compare(model, manifest),
            *_compare_architecture(model, configuration, manifest),
        )
        if findings:
            del model
            return Checked("structure", findings, self._note(origin, path, manifest))
        if depth == "predict":
            return _predict(model, path, manifest, Path(probe) if probe else None)
        # Code that is not Keras's may read more than weights.
        if not code and format_of(path / manifest.model_file).weights_are_all:
            self._keep(origin, model)
        return Checked("load")

    def _note(self, origin: Origin, path: Path, manifest: Manifest) -> str:
        """Whether our reader loads what stock Keras does not; tried once for a configuration."""
        if self._ours is None or self._ours[0] != origin:
            self._forget()
            gc.collect()
            self._ours = origin, _what_ours_makes_of_it(path, manifest)
        return self._ours[1]

    def _keep(self, origin: Origin, model: Any) -> None:
        """For the next checkpoint, without what was loaded: else that could pass for the next's."""
        _blank(model)
        self._kept = origin, model

    def _forget(self) -> None:
        self._kept = None
        keras.backend.clear_session()


def _needing_code(manifest: Manifest, why: str) -> Checked:
    what = f"stock Keras alone cannot load it: {why}"
    return Checked("structure", (Finding("code", manifest.model_file, what),), CODE)


def _what_ours_makes_of_it(path: Path, manifest: Manifest) -> str:
    try:
        model = rebuild(Stored.checkpoint(path, manifest), compile=False, safe_mode=True)
    except SavekitError:
        return NOT_OURS
    return OURS_DIFFERS if any(_compare(model, manifest)) else OURS


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
        findings = tuple(compare(model, path, manifest, probe))
        return Checked("load", findings, OTHER_OUTPUTS) if findings else Checked("predict")
    except UnansweredError as error:
        return Checked("load", note=f"not asked for outputs: {error}")


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
    """Described again, it is what was saved, or what Keras makes of that on any way."""
    loaded = digest(json.loads(json.dumps(serialized(model))))
    if not manifest.architecture or loaded == manifest.architecture:
        return
    # Older versions give operations the names that come next, as they did when it was loaded.
    keras.backend.clear_session()
    again = serialized(deserialized(configuration.architecture))
    if loaded != digest(json.loads(json.dumps(again))):
        yield Finding("load", manifest.model_file, "its architecture differs after loading")
