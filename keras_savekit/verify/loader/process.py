"""A process of its own that answers questions, within limits of time and memory.

A fresh interpreter (`isolation`) that imports nothing of the working directory and inherits
no secrets, without a GPU, at low priority, and the first that the system ends when memory
runs out. Whatever becomes of it is reported as a `ChildError`; whoever asks it never hangs
and never fails with it.
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
_LOOKS = 0.05  # seconds between two looks at its memory, which grows by 1 GB/s at most, about
# Ctrl-C is for the training. A session of its own would make it one of its own for the
# scheduler as well, which shares processors among sessions first (`man 7 sched`, autogroup).
_GROUP: dict[str, Any] = (
    {"process_group": 0} if sys.version_info >= (3, 11) else {"start_new_session": True}
)
_PAGE = os.sysconf("SC_PAGE_SIZE")
_GROUP_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


class ChildError(Exception):
    """The child gave no answer; what it was asked about may be good or bad."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What one question may cost the child, its start included.

    seconds: of time.
    memory: bytes of its own, without the libraries it shares; None: half of the machine's.
    """

    seconds: float = SECONDS
    memory: int | None = None

    @classmethod
    def from_policy(cls, policy: Mapping[str, Any]) -> Budget:
        """What the limits of a policy leave, as a run's directory has it."""
        limits = policy.get("limits")
        limits = limits if isinstance(limits, Mapping) else {}
        seconds, memory = limits.get("verify_time"), limits.get("verify_memory")
        return cls(
            SECONDS if seconds is None else as_duration(seconds),
            None if memory is None else as_size(memory),
        )


class Child:
    """A process that runs `MODULE.main([IN, OUT])`, spoken to in lines of JSON over two pipes.

    environ: of which it inherits what `isolation.environment` passes.

    Its standard output is not used: Keras and TensorFlow print there.
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
        """Its process id."""
        return self._process.pid

    def ask(self, question: dict[str, Any], budget: Budget) -> dict[str, Any]:
        """Its answer. Raises ChildError if none came within the budget; close it then."""
        try:
            os.write(self._out, json.dumps(question).encode() + b"\n")
            answer: dict[str, Any] = json.loads(self._line(budget))
        except (OSError, ValueError) as error:
            raise ChildError(f"the verifying process ended: {self._last_words()}") from error
        return answer

    def _line(self, budget: Budget) -> bytes:
        until = time.monotonic() + budget.seconds
        most = _half_of_all() if budget.memory is None else budget.memory
        with selectors.DefaultSelector() as selector:
            selector.register(self._in, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if selector.select(_LOOKS):
                    piece = os.read(self._in, 65536)
                    if not piece:
                        raise OSError("end of file")
                    self._buffer += piece
                    continue
                self._require_within(most, until, budget)
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _require_within(self, most: int, until: float, budget: Budget) -> None:
        taken = _memory(self.pid)
        if taken > most:
            raise ChildError(
                f"the verifying process took {taken} bytes of memory, more than the"
                f" {size_text(most)} it may (limits.verify_memory)"
            )
        if time.monotonic() > until:
            raise ChildError(
                "no answer from the verifying process in"
                f" {duration_text(budget.seconds)} (limits.verify_time)"
            )

    def _last_words(self) -> str:
        code = self._process.wait()
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, self._stderr.tell() - STDERR_SHOWN))
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return f"exit status {code}" + (f", {lines[-1]}" if lines else "")

    def kill(self) -> None:
        """End it; it holds nothing worth ending in order. Whoever waits for an answer is told."""
        self._process.kill()

    def close(self) -> None:
        """End it and give everything back."""
        self.kill()
        self._process.wait()
        for descriptor in (self._out, self._in):
            os.close(descriptor)
        self._stderr.close()


def _memory(pid: int) -> int:
    """Bytes that a process has for itself: proc(5), statm. None are left of one that is gone."""
    try:
        resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[1:3]
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * _PAGE


def _half_of_all() -> int:
    """Half of the memory that this machine, or the group that we are in, has."""
    limits = [os.sysconf("SC_PHYS_PAGES") * _PAGE]
    for path in _GROUP_LIMITS:
        with suppress(OSError, ValueError):  # no such group, or "max"
            limits.append(int(Path(path).read_text()))
    return min(limits) // 2


def _environment(inherited: Mapping[str, str]) -> dict[str, str]:
    return {
        **isolation.environment(inherited),
        "KERAS_BACKEND": "tensorflow",
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # Stock Keras opens files by name, and HDF5 would lock them: not every file system can.
        "HDF5_USE_FILE_LOCKING": "FALSE",
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": "1",
    }
