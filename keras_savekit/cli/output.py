"""How values look on a terminal and in JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from keras_savekit.base.key import Key
from keras_savekit.errors import DirectoryError
from keras_savekit.policy.signing import secret_in, secret_of
from keras_savekit.store.manifest import Finding
from keras_savekit.store.run import RunDirectory


def open_run(directory: Path) -> RunDirectory:
    """The run in `directory`; raises DirectoryError if there is none."""
    run = RunDirectory(directory)
    if not directory.is_dir():
        raise DirectoryError("no such directory", str(directory))
    if not run.exists:
        raise DirectoryError(
            "not the directory of a run",
            str(directory),
            "give the directory that the policy names; `checkpoints` is in it",
        )
    return run


def key_of(run: RunDirectory | None, variable: str | None) -> Key | None:
    """What the checkpoints of a run must be signed with, if anyone says so.

    variable: where the key is, by whoever asks. Else the run's policy says it, which
        whoever changes checkpoints can change too.

    Raises SavekitError if the variable that holds the key is not set.
    """
    if variable is not None:
        return secret_in(variable, os.environ, "--key-env")
    info = run.run_info() if run is not None else None
    return secret_of(info.policy, os.environ) if info is not None else None


def echo_json(value: Mapping[str, Any]) -> None:
    """Prints one JSON object. Numbers that are not finite become strings."""
    click.echo(json.dumps(_finite(value), indent=2, allow_nan=False))


def finding_json(finding: Finding) -> dict[str, str]:
    """A finding, for JSON."""
    return {"kind": finding.kind, "where": finding.where, "what": finding.what}


def size_shown(size: int) -> str:
    """`1.2 MB`."""
    amount, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while amount >= 999.5 and len(units) > 1:
        amount, units = amount / 1000, units[1:]
    return f"{size} B" if units[0] == "B" else f"{amount:.3g} {units[0]}"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
