"""`savekit.json`: the run's id and its resolved policy."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import to_json

from keras_savekit.errors import DirectoryError
from keras_savekit.store import json_values
from keras_savekit.store.atomic import disk_errors, write_bytes_durably
from keras_savekit.store.json_values import MalformedError
from keras_savekit.store.regular_file import content

RUN = "savekit.json"
RUN_FORMAT = 1
MAX_BYTES = 4 * 2**20  # a policy has 1 MiB


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What a run's directory records about the run.

    run: the run's id, made once.
    policy: as the last session resolved it.
    """

    run: str
    policy: Mapping[str, Any]
    format: int = RUN_FORMAT


class DamagedError(DirectoryError):
    """The file is not one that any version writes."""


_RUN_INFO = TypeAdapter(RunInfo)


def read(path: Path) -> RunInfo | None:
    """Read the file, None if there is none.

    Raises DamagedError if it is malformed, DirectoryError if it cannot be read, or is of
    a format that this version does not know.
    """
    with disk_errors("read", path):
        try:
            text = content(path, MAX_BYTES)
        except FileNotFoundError:
            return None
    try:
        parsed = json_values.parse_json(text)
        version = json_values.format_version(parsed)
        if version != RUN_FORMAT:
            raise DirectoryError(
                f"directory format {version} is not known",
                str(path),
                "a newer keras_savekit wrote it; update this one or choose another directory",
            )
        return json_values.validate(_RUN_INFO, parsed)
    except MalformedError as error:
        raise DamagedError(
            str(error),
            str(path),
            "a training moves this file to quarantine/ and continues with the checkpoints",
        ) from error


def write(path: Path, policy: Mapping[str, Any], run: str | None = None) -> RunInfo:
    """Record the resolved policy; the first call makes the run's id, later ones keep it.

    run: the id, if another source states it and the file is missing.
    """
    previous = read(path)
    info = RunInfo(run=previous.run if previous else run or uuid.uuid4().hex, policy=policy)
    text = to_json(info, indent=2, inf_nan_mode="strings", fallback=str)
    write_bytes_durably(path, text + b"\n")
    return info
