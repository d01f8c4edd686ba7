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
    if config.get("class_name") == "deserialize":  # see `full_h5`
        config = config["config"]["config"]
    same = json.dumps(_same(config), sort_keys=True, separators=(",", ":"))
    found: str = xxhash.xxh3_128_hexdigest(same.encode())
    return found


def _same(config: Any) -> Any:
    if isinstance(config, dict):
        return {key: _same(value) for key, value in config.items() if key not in _OTHERWISE}
    if isinstance(config, list):
        return [_same(value) for value in config]
    return config
