"""The process that loads checkpoints with stock Keras, compares every tensor, and asks the model.

Started by `verify.load` as `python -m keras_savekit.verify.child IN OUT`, two
inherited pipes: a line of JSON comes in for each checkpoint, one goes back. It
ends when the pipe does, so it never outlives the training by more than the
checkpoint in hand. Having too little memory accuses no checkpoint.
"""

from __future__ import annotations

import gc
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from keras_savekit.convert.trust import trust
from keras_savekit.formats.architecture import digest
from keras_savekit.formats.code_inside import code_in, code_of_compile, names_in
from keras_savekit.store.manifest import Depth, Finding, Manifest, read_manifest
from keras_savekit.verify.said import words_of

# Those that Keras's other random initializers are made of.
DRAWING = ("VarianceScaling", "RandomNormal", "RandomUniform", "TruncatedNormal", "Orthogonal")


def main(arguments: list[str]) -> None:
    """Answer until the pipe closes."""
    _step_back()
    _import_keras()
    incoming, outgoing = (int(each) for each in arguments)
    with os.fdopen(incoming, "rb") as questions, os.fdopen(outgoing, "wb") as answers:
        for line in questions:
            question = json.loads(line)
            for each in question["trusted"]:
                trust(each)
            answer: dict[str, Any] = {"undone": ""}
            try:
                checked = check(Path(question["path"]), question["depth"], question["probe"])
                answer |= asdict(checked)
            except MemoryError as error:
                answer["undone"] = f"the verifying process has too little memory: {error}"
            answer["computed"] = time.process_time()
            answers.write(json.dumps(answer).encode() + b"\n")
            answers.flush()


def _step_back() -> None:
    """Take the processor only when nobody else wants it, and go first when memory runs out."""
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _import_keras() -> None:
    """Have everything loaded that stays, and leave it out of what collecting garbage looks at.

    Else each collection, which gives a model's memory back, takes as long as loading it.
    There is one after each model, and none in between.
    """
    import keras

    for name in DRAWING:
        _draw_nothing(getattr(keras.initializers, name))
    gc.collect()
    gc.freeze()
    gc.disable()


def _draw_nothing(initializer: Any) -> None:
    """Fill with NaN what loading is to overwrite: drawing it took most of the time of a load.

    What is then not overwritten differs from every number that was saved.
    """
    draw = initializer.__call__

    def fill(self: Any, shape: Any, dtype: Any = None, **given: Any) -> Any:
        import keras

        dtype = keras.backend.standardize_dtype(dtype)
        if not keras.backend.is_float_dtype(dtype):
            return draw(self, shape, dtype=dtype, **given)
        return keras.ops.full(shape, math.nan, dtype)

    initializer.__call__ = fill


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found, down to which depth, and why not deeper."""

    reached: Depth
    findings: tuple[Finding, ...] = ()
    note: str = ""


def check(path: Path, depth: Depth, probe: str | None) -> Checked:
    """Load the checkpoint with stock Keras, and ask the model if the depth is `predict`.

    probe: a file with a batch to ask it with, if it exists.
    """
    manifest = read_manifest(path)
    refused = _code_inside(path, manifest)
    if refused:
        return Checked("structure", note=f"stock Keras alone cannot load it: {refused}")
    code = sorted(set(_code_of_its_own(path, manifest)))
    try:
        model = _load(path, manifest)
    except Exception as error:  # noqa: BLE001 - whatever Keras says is the outcome, and is told
        said = words_of(error)
        if code:
            names = ", ".join(code[:3])
            note = f"stock Keras alone cannot load it: it needs {names} ({said})"
            return Checked("structure", note=note)
        what = f"stock Keras cannot load it: {said}"
        return Checked("load", (Finding("load", manifest.model_file, what),))
    try:
        findings = (*_compare(model, manifest), *_compare_architecture(model, path, manifest))
        if findings or depth == "load":
            return Checked("load", findings)
        return _predict(model, path, manifest, Path(probe) if probe else None)
    finally:
        del model
        _forget()


def _predict(model: Any, path: Path, manifest: Manifest, probe: Path | None) -> Checked:
    from keras_savekit.verify.predict import UnansweredError, compare

    try:
        return Checked("predict", tuple(compare(model, path, manifest, probe)))
    except UnansweredError as error:
        return Checked("load", note=f"not asked for outputs: {error}")


def _load(path: Path, manifest: Manifest) -> Any:
    import keras

    file = path / manifest.model_file
    if manifest.save == "model":
        return keras.models.load_model(file)
    from keras_savekit.formats.checkpoint import ARCHITECTURE_FILE

    model = keras.models.model_from_json((path / ARCHITECTURE_FILE).read_text())
    model.load_weights(file)
    return model


def _compare(model: Any, manifest: Manifest) -> Iterator[Finding]:
    from keras_savekit.formats.h5_file import tensor_digest
    from keras_savekit.formats.snapshot import as_array

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


def _compare_architecture(model: Any, path: Path, manifest: Manifest) -> Iterator[Finding]:
    """Described again, it is what was saved, or what Keras makes of that on any way."""
    import keras

    from keras_savekit.training.keras_walk import deserialized, serialized

    config = _architecture(path, manifest)
    loaded = digest(json.loads(json.dumps(serialized(model))))
    if not manifest.architecture or loaded == manifest.architecture:
        return
    # Older versions give operations the names that come next, as they did when it was loaded.
    keras.backend.clear_session()
    again = serialized(deserialized(config))
    if loaded != digest(json.loads(json.dumps(again))):
        yield Finding("load", manifest.model_file, "its architecture differs after loading")


def _architecture(path: Path, manifest: Manifest) -> Any:
    from keras_savekit.formats.checkpoint import ARCHITECTURE_FILE

    if manifest.save == "weights":
        return json.loads((path / ARCHITECTURE_FILE).read_text())
    if manifest.model_file.endswith(".keras"):
        from keras_savekit.formats.keras_archive import read_config

        return json.loads(read_config(path / manifest.model_file))
    import h5py

    with h5py.File(path / manifest.model_file, "r") as file:
        config = json.loads(file.attrs["model_config"])
    return config["config"]["config"] if config["class_name"] == "deserialize" else config


def _code_of_its_own(path: Path, manifest: Manifest) -> Iterator[str]:
    """Classes and functions in the configuration that Keras does not bring along."""
    yield from _foreign(_architecture(path, manifest))
    training = _training(path, manifest)
    yield from _foreign(training)
    for key in ("loss", "metrics", "weighted_metrics"):
        yield from (name for name in _texts(training.get(key)) if not _is_of_keras(name))


def _code_inside(path: Path, manifest: Manifest) -> str:
    """Why not even to try: older versions of Keras run what they find, and import what it names."""
    config, training = _architecture(path, manifest), _training(path, manifest)
    compiled = (config.get("compile_config") if isinstance(config, dict) else None, training)
    code = [
        *code_in(config, "the model"),
        *(each for one in compiled for each in code_of_compile(one)),
    ]
    if code:
        held = dict.fromkeys(f"{what} in {place}" for place, what in code)
        return f"it holds {', '.join([*held][:3])}, which is not run"
    names = dict.fromkeys(names_in([config, *compiled], _is_registered))
    return f"it needs {', '.join([*names][:3])}, which stock Keras does not have" if names else ""


def _is_registered(name: str) -> bool:
    import keras

    return keras.saving.get_registered_object(name) is not None


def _training(path: Path, manifest: Manifest) -> Any:
    """What a `.h5` file says to stock Keras of `compile`."""
    if manifest.save == "weights" or manifest.model_file.endswith(".keras"):
        return {}
    import h5py

    with h5py.File(path / manifest.model_file, "r") as file:
        return json.loads(file.attrs.get("training_config", "{}"))


def _foreign(config: Any) -> Iterator[str]:
    if isinstance(config, dict):
        module, name = str(config.get("module") or ""), config.get("class_name")
        known = module.split(".", maxsplit=1)[0] in ("keras", "builtins")
        if name == "function":
            if not _is_of_keras(config["config"]):
                yield str(config["config"])
        elif name == "__lambda__" or (name and "registered_name" in config and not known):
            yield f"{module or '__main__'}.{name}"
        for value in config.values():
            yield from _foreign(value)
    elif isinstance(config, list):
        for value in config:
            yield from _foreign(value)


def _texts(config: Any) -> Iterator[str]:
    if isinstance(config, str):
        yield config
    elif isinstance(config, list) or (isinstance(config, dict) and "class_name" not in config):
        for value in config.values() if isinstance(config, dict) else config:
            yield from _texts(value)


def _is_of_keras(function: str) -> bool:
    import keras

    rooms = (keras.losses, keras.metrics, keras.activations, keras.initializers, keras.ops)
    resolved_by_compile = {"accuracy", "acc", "crossentropy", "ce"}
    return function in resolved_by_compile or any(hasattr(room, function) for room in rooms)


def _forget() -> None:
    import keras

    keras.backend.clear_session()
    gc.collect()


if __name__ == "__main__":
    main(sys.argv[1:])
