"""What is equal in two descriptions of one architecture.

Keras's serialization has numbers that each process makes anew for objects that are used
twice, and may say how the model is compiled, which is no matter of architecture.
"""

from __future__ import annotations

import json
from typing import Any

import xxhash

_OTHERWISE = ("shared_object_id", "compile_config")


def digest(config: Any) -> str:
    """xxh3_128, in hex, of an architecture as any of our files has it. ValueError if it is none."""
    if not isinstance(config, dict):
        raise ValueError("no architecture")
    same = json.dumps(_same(unwrapped(config)), sort_keys=True, separators=(",", ":"))
    found: str = xxhash.xxh3_128_hexdigest(same.encode())
    return found


def wrapped(config: dict[str, Any]) -> dict[str, Any]:
    """An architecture in the form by which the stock `.h5` reader builds any class.

    That reader takes the name of a function in `keras.layers` too: `deserialize` builds
    whatever it is given.
    """
    return {"class_name": "deserialize", "config": {"config": config}}


def unwrapped(config: Any) -> Any:
    """The architecture in a form that `wrapped` may have given it."""
    is_wrapped = isinstance(config, dict) and config.get("class_name") == "deserialize"
    return config["config"]["config"] if is_wrapped else config


def _same(config: Any) -> Any:
    if isinstance(config, dict):
        return {key: _same(value) for key, value in config.items() if key not in _OTHERWISE}
    if isinstance(config, list):
        return [_same(value) for value in config]
    return config
