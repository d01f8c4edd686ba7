"""Read the configuration that stock Keras builds from, and find the parts that are not Keras's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from keras_savekit.formats.config_digest import unwrap
from keras_savekit.formats.embedded_code import code_in, code_of_compile, names_in
from keras_savekit.formats.registry import format_of
from keras_savekit.model.rebuild import is_registered
from keras_savekit.store.manifest import Manifest


@dataclass(frozen=True, slots=True)
class SavedConfig:
    """The JSON texts in the files of a checkpoint.

    model: the architecture. In some formats it contains how to compile the model.
    training: how to compile the model, in other formats.
    """

    model: str | bytes
    training: str | bytes = "null"

    @classmethod
    def of(cls, path: Path, manifest: Manifest) -> SavedConfig:
        """Read it from the checkpoint in the directory `path`."""
        file = path / manifest.model_file
        model_format = format_of(file)
        texts = model_format.read_texts(file, path / model_format.architecture_file)
        return cls(texts.model, texts.training)

    @property
    def architecture(self) -> Any:
        """The architecture, as `keras.saving.serialize_keras_object` returns it."""
        return unwrap(json.loads(self.model))

    def why_unsafe(self) -> str:
        """Return why stock Keras must not load it, empty if it may.

        Older versions of Keras run the code in a configuration, and import what it names.
        """
        architecture, training = self.architecture, json.loads(self.training) or {}
        compiled = (
            architecture.get("compile_config") if isinstance(architecture, dict) else None,
            training,
        )
        code = [
            *code_in(architecture, "the model"),
            *(found for config in compiled for found in code_of_compile(config)),
        ]
        if code:
            found = dict.fromkeys(f"{what} in {place}" for place, what in code)
            return f"it contains {', '.join([*found][:3])}, which is not run"
        names = dict.fromkeys(names_in([architecture, *compiled], is_registered))
        if names:
            return f"it needs {', '.join([*names][:3])}, which stock Keras does not have"
        return ""

    def custom_code(self) -> Iterator[str]:
        """Yield the classes and functions that are not part of Keras."""
        training = json.loads(self.training) or {}
        yield from _foreign(self.architecture)
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
    modules = (keras.losses, keras.metrics, keras.activations, keras.initializers, keras.ops)
    resolved_by_compile = {"accuracy", "acc", "crossentropy", "ce"}
    return function in resolved_by_compile or any(hasattr(module, function) for module in modules)
