"""Which process something is, so that a dead one is never taken for a living one.

A number alone is given to others later: with it goes when its process began, in
which boot of the machine and in which namespace of numbers.
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
class Process:
    """One process of one machine.

    machine, boot: which installation of a system, and which of its boots.
    numbers: the namespace that `pid` is of, as containers have their own.
    began: in ticks since the boot.
    """

    pid: int
    host: str
    machine: str = ""
    boot: str = ""
    numbers: str = ""
    began: str = ""

    @classmethod
    def of(cls, note: Mapping[str, Any]) -> Process:
        """The process that wrote this note. KeyError or ValueError if it is none."""
        rest = {name: str(note.get(name, "")) for name in ("machine", "boot", "numbers", "began")}
        return cls(int(note["pid"]), str(note["host"]), **rest)

    def alive(self) -> bool | None:
        """Whether it still runs; None if that cannot be known from here."""
        here = this_process()
        if self.boot and (self.boot, self.numbers) == (here.boot, here.numbers):
            return _began(self.pid) == self.began
        same = bool(self.machine) and (self.machine, self.host) == (here.machine, here.host)
        return False if same and self.boot != here.boot else None


def this_process() -> Process:
    """The one that asks."""
    pid = os.getpid()
    return Process(
        pid,
        socket.gethostname(),
        _text("/etc/machine-id"),
        _text("/proc/sys/kernel/random/boot_id"),
        _numbers(),
        _began(pid),
    )


def _began(pid: int) -> str:
    # The name before it may hold anything, blanks and parentheses too: proc(5).
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else ""


def _numbers() -> str:
    with suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""


def _text(path: str) -> str:
    with suppress(OSError):
        return Path(path).read_text(errors="replace").strip()
    return ""
