"""How values look on a terminal and in JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from keras_savekit.store.manifest import Finding


def echo_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object. Numbers that are not finite become strings."""
    click.echo(json.dumps(_finite(value), indent=2, allow_nan=False))


def findings_json(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """Return findings as JSON objects."""
    return [
        {"kind": finding.kind, "where": finding.where, "what": finding.what} for finding in findings
    ]


def short_size(size: int) -> str:
    """Return a number of bytes with three digits and its unit, such as `1.23 MB`."""
    amount, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while amount >= 999.5 and len(units) > 1:
        amount, units = amount / 1000, units[1:]
    return f"{size} B" if units[0] == "B" else f"{amount:.3g} {units[0]}"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
