"""Compare architectures by a digest that is the same in every file format and process.

Keras's serialization contains ids of shared objects, which differ from process to process,
and may contain how the model is compiled. The digest leaves both out.
"""

from __future__ import annotations

import json
from typing import Any

import xxhash

_LEFT_OUT = ("shared_object_id", "compile_config")


def digest(config: Any) -> str:
    """Return the xxh3_128, in hex, of an architecture. Raise ValueError if `config` is none."""
    if not isinstance(config, dict):
        raise ValueError("is not an architecture")
    text = json.dumps(_normalize(unwrap(config)), sort_keys=True, separators=(",", ":"))
    found: str = xxhash.xxh3_128_hexdigest(text.encode())
    return found


def wrap(config: dict[str, Any]) -> dict[str, Any]:
    """Wrap an architecture so that the stock `.h5` reader can build a model of any class.

    That reader calls the function in `keras.layers` that `class_name` names. `deserialize`
    builds any object.
    """
    return {"class_name": "deserialize", "config": {"config": config}}


def unwrap(config: Any) -> Any:
    """Return the architecture without what `wrap` adds."""
    is_wrapped = isinstance(config, dict) and config.get("class_name") == "deserialize"
    return config["config"]["config"] if is_wrapped else config


def _normalize(config: Any) -> Any:
    if isinstance(config, dict):
        return {key: _normalize(value) for key, value in config.items() if key not in _LEFT_OUT}
    if isinstance(config, list):
        return [_normalize(value) for value in config]
    return config
