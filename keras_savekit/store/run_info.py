"""`savekit.json`: what a run's directory says about itself."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from keras_savekit.errors import DirectoryError
from keras_savekit.store.atomic import disk_errors, write_bytes_durably
from keras_savekit.store.regular_file import content

RUN = "savekit.json"
RUN_FORMAT = 1
MAX_BYTES = 4 * 2**20  # a policy has 1 MiB


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What a run's directory says about itself.

    run: the run's id, made once.
    policy: as resolved by the last session.
    """

    run: str
    policy: Mapping[str, Any]
    format: int = RUN_FORMAT


class DamagedError(DirectoryError):
    """The file is not what any version writes."""


@dataclass(frozen=True, slots=True)
class _Head:
    format: int


_HEAD = TypeAdapter(_Head)
_RUN_INFO = TypeAdapter(RunInfo)


def read(path: Path) -> RunInfo | None:
    """What the file says, None if there is none.

    Raises DamagedError if it is malformed, DirectoryError if it cannot be read, or is of
    a format that this version does not know.
    """
    with disk_errors("read", path):
        try:
            text = content(path, MAX_BYTES)
        except FileNotFoundError:
            return None
    try:
        known = _HEAD.validate_json(text).format
        if known != RUN_FORMAT:
            raise DirectoryError(
                f"directory format {known} is not known",
                str(path),
                "a newer keras_savekit wrote it; update this one or choose another directory",
            )
        return _RUN_INFO.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DamagedError(
            f"malformed: {where}: {first['msg']}",
            str(path),
            "a training moves this file to quarantine/ and continues with the checkpoints",
        ) from error


def write(path: Path, policy: Mapping[str, Any], run: str | None = None) -> RunInfo:
    """Record the policy as resolved; the run's id is made the first time, then kept.

    run: the id, if it is known from elsewhere and the file is not there.
    """
    before = read(path)
    info = RunInfo(run=before.run if before else run or uuid.uuid4().hex, policy=policy)
    text = to_json(info, indent=2, inf_nan_mode="strings", fallback=str)
    write_bytes_durably(path, text + b"\n")
    return info
