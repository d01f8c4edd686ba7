"""Depth `load`: a process of its own loads the checkpoint with stock Keras.

The child is started once (a fresh interpreter, nothing inherited but the
import path), kept between checkpoints, runs at low priority and without a GPU,
and never imports what trains here. It is never the reason that training fails
or hangs: what it could not check is told in the verification's note.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from keras_savekit.convert.trust import trusted
from keras_savekit.store.manifest import Finding, Verification
from keras_savekit.verify.checks import verify_shallow

TIMEOUT = 600.0
STDERR_SHOWN = 2000


class ChildError(Exception):
    """The child gave no answer; the checkpoint may be good or bad."""


class LoadChecker:
    """Verifies checkpoints at depth `load`, one after another. A context manager.

    timeout: seconds the child may take over one checkpoint, its start included.
    """

    def __init__(self, timeout: float = TIMEOUT) -> None:
        self._timeout = timeout
        self._child: _Child | None = None
        self._before = 0.0  # processor seconds of children that are gone
        self._now = 0.0  # and of the one that lives, when it last answered

    @property
    def computed(self) -> float:
        """Processor seconds that children have spent, as far as they have told."""
        return self._before + self._now

    def verify(self, path: Path, now: float) -> Verification:
        """Check `path` at every depth up to `load`.

        When the files are good and the child could not say more, the outcome has
        depth `structure` and a note that says why.
        """
        shallow = verify_shallow(path, "structure", now)
        if not shallow.good:
            return shallow
        try:
            findings, note = self._ask(path)
        except ChildError as error:
            self.close()
            return Verification("structure", now, note=f"not loaded: {error}")
        if note and not findings:
            return Verification("structure", now, note=note)
        return Verification("load", now, findings, note)

    def _ask(self, path: Path) -> tuple[tuple[Finding, ...], str]:
        if self._child is None:
            self._child = _Child()
        question = {"path": str(path.absolute()), "trusted": trusted()}
        answer = self._child.ask(question, self._timeout)
        self._now = answer["computed"]
        return tuple(Finding(**each) for each in answer["findings"]), answer["note"]

    @property
    def pid(self) -> int | None:
        """The child's process id while it lives."""
        return self._child.pid if self._child else None

    def close(self) -> None:
        """End the child. The next checkpoint starts another."""
        if self._child is not None:
            self._child.close()
            self._child = None
            self._before, self._now = self.computed, 0.0

    def __enter__(self) -> LoadChecker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Child:
    """The process, spoken to in lines of JSON over two pipes of its own.

    Its standard output is not used: Keras and TensorFlow print there.
    """

    def __init__(self) -> None:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self._buffer = b""
        try:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "keras_savekit.verify.child",
                    str(theirs_in),
                    str(theirs_out),
                ],
                pass_fds=(theirs_in, theirs_out),
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for the training
            )
        finally:
            os.close(theirs_in)
            os.close(theirs_out)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, question: dict[str, Any], timeout: float) -> dict[str, Any]:
        try:
            os.write(self._out, json.dumps(question).encode() + b"\n")
            answer: dict[str, Any] = json.loads(self._line(timeout))
        except (OSError, ValueError) as error:
            raise ChildError(f"the verifying process ended: {self._last_words()}") from error
        return answer

    def _line(self, timeout: float) -> bytes:
        with selectors.DefaultSelector() as selector:
            selector.register(self._in, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(timeout):
                    raise ChildError(f"no answer from the verifying process in {timeout:.0f} s")
                piece = os.read(self._in, 65536)
                if not piece:
                    raise OSError("end of file")
                self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _last_words(self) -> str:
        code = self._process.wait()
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, self._stderr.tell() - STDERR_SHOWN))
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return f"exit status {code}" + (f", {lines[-1]}" if lines else "")

    def close(self) -> None:
        for descriptor in (self._out, self._in):
            os.close(descriptor)
        self._process.kill()  # it holds nothing worth ending in order
        self._process.wait()
        self._stderr.close()


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": "1",
        # The user's own layers are found where the training found them.
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),  # noqa: PTH109
    }
