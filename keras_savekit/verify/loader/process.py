"""Run a child process that answers questions, with limits of time and memory.

The child is a new interpreter (`isolation`) that imports nothing from the working directory
and inherits no secrets. It uses no GPU. Each failure of the child is a `ChildError`; the
caller never hangs and never crashes with it.
"""

from __future__ import annotations

import json
import os
import selectors
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_savekit.policy.units import as_duration, as_size, duration_text, size_text
from keras_savekit.verify.loader import isolation

STDERR_SHOWN = 2000
SECONDS = 600.0
_POLL_SECONDS = 0.05  # between checks of its memory, which grows by about 1 GB/s at most
# Ctrl-C must not reach the child. A new process group is enough: a new session would also be
# a new scheduling group, which gets an equal share of the processors (`man 7 sched`, autogroup).
_GROUP: dict[str, Any] = (
    {"process_group": 0} if sys.version_info >= (3, 11) else {"start_new_session": True}
)
_PAGE = os.sysconf("SC_PAGE_SIZE")
_GROUP_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


class ChildError(Exception):
    """The child gave no answer, so nothing is known about the checkpoint."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The time and memory that the child may use for one question, its start included.

    memory: bytes, without shared libraries. None: half of the memory of the machine.
    """

    seconds: float = SECONDS
    memory: int | None = None

    @classmethod
    def from_policy(cls, policy: Mapping[str, Any]) -> Budget:
        """Read the limits of a policy, as the run's directory contains it."""
        limits = policy.get("limits")
        limits = limits if isinstance(limits, Mapping) else {}
        seconds, memory = limits.get("verify_time"), limits.get("verify_memory")
        return cls(
            SECONDS if seconds is None else as_duration(seconds),
            None if memory is None else as_size(memory),
        )


class Child:
    """A process that runs `MODULE.main([IN, OUT])` and exchanges lines of JSON over two pipes.

    environ: it inherits the variables of it that `isolation.environment` selects.

    Its standard output is not used, since Keras and TensorFlow print there.
    """

    def __init__(self, module: str, environ: Mapping[str, str]) -> None:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self._buffer = b""
        try:
            self._process = isolation.start(
                module,
                [str(theirs_in), str(theirs_out)],
                _environment(environ),
                pass_fds=(theirs_in, theirs_out),
                stdout=self._stderr,
                stderr=self._stderr,
                **_GROUP,
            )
        except OSError as error:
            for descriptor in (self._out, self._in):
                os.close(descriptor)
            self._stderr.close()
            raise ChildError(f"no process can be started: {error.strerror}") from error
        finally:
            os.close(theirs_in)
            os.close(theirs_out)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def ask(self, question: dict[str, Any], budget: Budget) -> dict[str, Any]:
        """Return the answer. Raise ChildError if there is none in time; the caller then closes."""
        try:
            os.write(self._out, json.dumps(question).encode() + b"\n")
            answer: dict[str, Any] = json.loads(self._line(budget))
        except (OSError, ValueError) as error:
            raise ChildError(f"the verifying process ended: {self._end_text()}") from error
        return answer

    def _line(self, budget: Budget) -> bytes:
        deadline = time.monotonic() + budget.seconds
        most = _half_of_all() if budget.memory is None else budget.memory
        with selectors.DefaultSelector() as selector:
            selector.register(self._in, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if selector.select(_POLL_SECONDS):
                    piece = os.read(self._in, 65536)
                    if not piece:
                        raise OSError("end of file")
                    self._buffer += piece
                    continue
                self._require_within(most, deadline, budget)
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _require_within(self, most: int, deadline: float, budget: Budget) -> None:
        used = _memory(self.pid)
        if used > most:
            raise ChildError(
                f"the verifying process used {used} bytes of memory, more than the"
                f" allowed {size_text(most)} (limits.verify_memory)"
            )
        if time.monotonic() > deadline:
            raise ChildError(
                "no answer from the verifying process in"
                f" {duration_text(budget.seconds)} (limits.verify_time)"
            )

    def _end_text(self) -> str:
        code = self._process.wait()
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, self._stderr.tell() - STDERR_SHOWN))
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return f"exit status {code}" + (f", {lines[-1]}" if lines else "")

    def kill(self) -> None:
        """Kill the process. A thread that waits in `ask` gets a ChildError."""
        self._process.kill()

    def close(self) -> None:
        """Kill the process and release its resources."""
        self.kill()
        self._process.wait()
        for descriptor in (self._out, self._in):
            os.close(descriptor)
        self._stderr.close()


def _memory(pid: int) -> int:
    """Return the unshared bytes of a process (proc(5), statm); 0 if it has ended."""
    try:
        resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[1:3]
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * _PAGE


def _half_of_all() -> int:
    """Return half of the memory of this machine, or of its control group if that is less."""
    limits = [os.sysconf("SC_PHYS_PAGES") * _PAGE]
    for path in _GROUP_LIMITS:
        with suppress(OSError, ValueError):  # there is no such group, or its limit is "max"
            limits.append(int(Path(path).read_text()))
    return min(limits) // 2


def _environment(inherited: Mapping[str, str]) -> dict[str, str]:
    return {
        **isolation.environment(inherited),
        "KERAS_BACKEND": "tensorflow",
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # Stock Keras opens files by name, and not every file system can lock them.
        "HDF5_USE_FILE_LOCKING": "FALSE",
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": "1",
    }
