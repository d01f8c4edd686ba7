"""`events.jsonl`: the events of a run in order, one JSON object a line, append-only.

For people and reports; no decision depends on it. If a crash tears a line, the next
append ends that line and marks its own; `read` skips the torn line.
"""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from pydantic_core import to_json

from keras_savekit.errors import DirectoryError
from keras_savekit.store import syscalls
from keras_savekit.store.atomic import disk_errors
from keras_savekit.store.regular_file import FLAGS, as_text

_AFTER_TORN = "after_torn_line"
MAX_LINE = 16 * 2**20


class EventLog:
    """The log in the file `path`, which need not exist yet.

    clock: returns seconds since 1970.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._clock = clock
        self._appending = threading.Lock()
        self._failure: DirectoryError | None = None
        self._reported = False

    def now(self) -> float:
        """Seconds since 1970, by the log's clock."""
        return self._clock()

    def append(self, kind: str, **fields: Any) -> None:
        """Append one event.

        kind: the event, in one word.
        fields: of JSON's types, numbers and arrays of NumPy, or paths. Numbers
            that are not finite become "NaN", "Infinity" and "-Infinity".

        If the disk refuses, the event is missing, the previous ones are unchanged, and
        `failure` returns the error: a line in a log is no reason to stop a training.
        """
        if "time" in fields or _AFTER_TORN in fields:
            raise ValueError(f"an event's fields cannot be called time or {_AFTER_TORN}")
        event = {"time": self._clock(), "kind": kind, **fields}
        try:
            with self._appending, disk_errors("append to the log", self.path):
                self._append(event)
        except DirectoryError as error:
            self._failure = self._failure or error

    def failure(self) -> DirectoryError | None:
        """The first error that made an event missing. Returned once, then None."""
        if self._reported or self._failure is None:
            return None
        self._reported = True
        return self._failure

    def _append(self, event: dict[str, Any]) -> None:
        # FLAGS: a link would lead elsewhere, and a pipe would wait for a reader.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | FLAGS
        with syscalls.opened(self.path, flags) as descriptor:
            torn = _ends_torn(descriptor)
            line = _line(event | {_AFTER_TORN: True} if torn else event)
            rest = b"\n" + line if torn else line
            # One write, unless the disk takes less: the kernel keeps the lines of
            # several processes apart.
            while rest:
                rest = rest[syscalls.write(descriptor, rest) :]

    def read(self) -> list[dict[str, Any]]:
        """Read all events, oldest first; skip lines that a crash tore.

        Raises DirectoryError if the log cannot be read, or a line is not an event and no
        crash explains it.
        """
        with disk_errors("read the log", self.path):
            try:
                descriptor = syscalls.open(self.path, os.O_RDONLY | FLAGS)
            except FileNotFoundError:
                return []
            with os.fdopen(descriptor, "rb") as file:
                return self._events(file)

    def _events(self, file: BinaryIO) -> list[dict[str, Any]]:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise DirectoryError("is not a plain file", str(self.path))
        events: list[dict[str, Any]] = []
        broken, line = 0, b""
        # Line by line with a limit: a hostile file may have no line ends.
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE), b""), start=1):
            event = _event(line)
            if event:
                closed = event.pop(_AFTER_TORN, False)
                if broken and not closed:
                    raise DirectoryError(f"line {broken} is not an event", str(self.path))
                broken = 0
                events.append(event)
            elif b"\0" not in line:
                broken = broken or number  # a loss of power leaves zeros
        if broken and line.endswith(b"\n"):  # else a crash tore the last line
            raise DirectoryError(f"line {broken} is not an event", str(self.path))
        return events


def _line(event: dict[str, Any]) -> bytes:
    return to_json(_as_text(event), inf_nan_mode="strings", fallback=_as_json_type) + b"\n"


def _as_text(value: Any) -> Any:
    """Replace bytes in file names that are no text; JSON cannot store them."""
    if isinstance(value, str):
        return as_text(value)
    if isinstance(value, dict):
        return {_as_text(key): _as_text(item) for key, item in value.items()}
    return [_as_text(item) for item in value] if isinstance(value, list | tuple) else value


def _as_json_type(value: object) -> object:
    to_list = getattr(value, "tolist", None)
    return to_list() if callable(to_list) else str(value)


def _ends_torn(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return size > 0 and syscalls.pread(descriptor, 1, size - 1) != b"\n"


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and event else None
