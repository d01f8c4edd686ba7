"""The process that loads checkpoints with stock Keras and compares every tensor.

Started by `verify.load` as `python -m keras_savekit.verify.child IN OUT`, two
inherited pipes: a line of JSON comes in for each checkpoint, one goes back. It
ends when the pipe does, so it never outlives the training by more than the
checkpoint in hand. Having too little memory accuses no checkpoint.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from keras_savekit.convert.trust import trust
from keras_savekit.formats.architecture import digest
from keras_savekit.store.manifest import Finding, Manifest, read_manifest

NICENESS = 10
# How libraries say that the system gave them no memory.
_NO_MEMORY = ("out of memory", "allocate memory", "memory allocation", "bad_alloc", "oom when")


def main(arguments: list[str]) -> None:
    """Answer until the pipe closes."""
    os.nice(NICENESS)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # it goes before any training does
    incoming, outgoing = (int(each) for each in arguments)
    with os.fdopen(incoming, "rb") as questions, os.fdopen(outgoing, "wb") as answers:
        for line in questions:
            question = json.loads(line)
            for digest in question["trusted"]:
                trust(digest)
            answer: dict[str, Any] = {"findings": [], "note": "", "undone": ""}
            try:
                findings, answer["note"] = check(Path(question["path"]))
                answer["findings"] = [asdict(each) for each in findings]
            except MemoryError as error:
                answer["undone"] = f"the verifying process has too little memory: {error}"
            answer["computed"] = time.process_time()
            answers.write(json.dumps(answer).encode() + b"\n")
            answers.flush()


def check(path: Path) -> tuple[list[Finding], str]:
    """Load the checkpoint with stock Keras; return what is wrong, and what could not be done."""
    manifest = read_manifest(path)
    code = sorted(set(_code_of_its_own(path, manifest)))
    try:
        model = _load(path, manifest)
    except Exception as error:  # noqa: BLE001 - whatever Keras says is the outcome, and is told
        _require_memory(error)
        said = f"{type(error).__name__}: {_first_line(error)}"
        if code:
            names = ", ".join(code[:3])
            return [], f"stock Keras alone cannot load it: it needs {names} ({said})"
        return [Finding("load", manifest.model_file, f"stock Keras cannot load it: {said}")], ""
    findings = [*_compare(model, manifest), *_compare_architecture(model, path, manifest)]
    del model
    _forget()
    return findings, ""


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

    promised = [entry for entry in manifest.tensors if entry.role == "weight"]
    loaded = model.weights
    if len(promised) != len(loaded):
        yield Finding(
            "load",
            manifest.model_file,
            f"{len(promised)} weights saved, {len(loaded)} after loading",
        )
    for entry, weight in zip(promised, loaded, strict=False):
        value = weight.numpy()
        if tuple(value.shape) != entry.shape or tensor_digest(value) != entry.digest:
            yield Finding("load", entry.places[0], f"{entry.name} differs after loading")


def _compare_architecture(model: Any, path: Path, manifest: Manifest) -> Iterator[Finding]:
    """Described again, it is what was saved, or what Keras makes of that on any way."""
    from keras_savekit.training.keras_walk import deserialized, serialized

    config = _architecture(path, manifest)
    loaded = digest(json.loads(json.dumps(serialized(model))))
    if not manifest.architecture or loaded == manifest.architecture:
        return
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
    if manifest.save == "weights" or manifest.model_file.endswith(".keras"):
        return
    import h5py

    with h5py.File(path / manifest.model_file, "r") as file:
        training = json.loads(file.attrs.get("training_config", "{}"))
    yield from _foreign(training)
    for key in ("loss", "metrics", "weighted_metrics"):
        yield from (name for name in _texts(training.get(key)) if not _is_of_keras(name))


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


def _require_memory(error: Exception) -> None:
    """Raise MemoryError if that is what was lacking."""
    if isinstance(error, MemoryError) or any(each in str(error).lower() for each in _NO_MEMORY):
        raise MemoryError(_first_line(error) or "none is left") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]


def _forget() -> None:
    import keras

    keras.backend.clear_session()
    gc.collect()


if __name__ == "__main__":
    main(sys.argv[1:])
