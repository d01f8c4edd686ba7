"""The identity of a process, so that a dead one is never taken for a living one.

A pid alone is not enough, since the system gives it to later processes. So the identity
also has the start time, the boot of the machine and the pid namespace.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class ProcessId:
    """The identity of one process of one machine. The lock's note on disk has these fields.

    machine, boot: the installation of the system, and its boot.
    numbers: the namespace of `pid`; containers have their own.
    began: the start time, in ticks since the boot.
    """

    pid: int
    host: str
    machine: str = ""
    boot: str = ""
    numbers: str = ""
    began: str = ""

    @classmethod
    def of(cls, note: Mapping[str, Any]) -> ProcessId:
        """The process that wrote this note. Raises KeyError or ValueError if it is malformed."""
        rest = {name: str(note.get(name, "")) for name in ("machine", "boot", "numbers", "began")}
        return cls(int(note["pid"]), str(note["host"]), **rest)

    def alive(self) -> bool | None:
        """Whether it still runs; None if this process cannot know that."""
        here = this_process()
        if self.boot and (self.boot, self.numbers) == (here.boot, here.numbers):
            return _start_time(self.pid) == self.began
        same_machine = bool(self.machine) and (self.machine, self.host) == (here.machine, here.host)
        return False if same_machine and self.boot != here.boot else None


def this_process() -> ProcessId:
    """The identity of the calling process."""
    pid = os.getpid()
    return ProcessId(
        pid,
        socket.gethostname(),
        _text("/etc/machine-id"),
        _text("/proc/sys/kernel/random/boot_id"),
        _pid_namespace(),
        _start_time(pid),
    )


def _start_time(pid: int) -> str:
    # The process's name before it may contain blanks and parentheses: proc(5).
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else ""


def _pid_namespace() -> str:
    with suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""


def _text(path: str) -> str:
    with suppress(OSError):
        return Path(path).read_text(errors="replace").strip()
    return ""
