"""A policy as YAML text."""

from __future__ import annotations

from typing import Any

import yaml

from keras_savekit.policy.environment import escape
from keras_savekit.policy.fields import Value


def policy_text(policy: Any) -> str:
    """Return a `Policy` as YAML, without defaults; `parse_policy` reads it back as the same."""
    shape = policy.model_dump(mode="json")
    short = _without_defaults(policy, shape)
    short["plans"] = [
        _without_defaults(*pair) for pair in zip(policy.plans, shape["plans"], strict=True)
    ]
    if "limits" in short:
        short["limits"] = _without_defaults(policy.limits, shape["limits"])
    return yaml.safe_dump(_escaped(short), sort_keys=False, allow_unicode=True, width=88)


def _without_defaults(value: Value, shape: dict[str, Any]) -> dict[str, Any]:
    fields = type(value).model_fields
    return {key: shape[key] for key in shape if getattr(value, key) != fields[key].default}


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, dict):
        return {key: _escaped(inner) for key, inner in value.items()}
    return [_escaped(inner) for inner in value] if isinstance(value, list) else value
