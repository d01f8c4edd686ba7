"""Depths `load` and `predict`: a child process loads the checkpoint with stock Keras.

The child is started once, used for all checkpoints, and started again if it ends. It does
not import the user's code. It cannot make training fail or hang: a checkpoint to which it
gives no answer is not verified, and the note says why.

Findings of these depths are no evidence of damage, since `structure` compared each tensor
before. Such a checkpoint is good, and not portable.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from keras_savekit.base.key import Key
from keras_savekit.convert.trust import trusted_digests
from keras_savekit.store.manifest import Depth, Finding, Verification
from keras_savekit.verify import depths
from keras_savekit.verify.depths import ShallowDepth
from keras_savekit.verify.loader.process import Budget, Child, ChildError

CHILD = "keras_savekit.verify.loader.child"


class LoaderClient:
    """Verifies checkpoints at any depth, one after another. A context manager.

    The methods `verify*` return a Verification and never raise for damage or a failing
    system or child.

    budget: the time and memory that the child may use for one checkpoint.
    probe: a file with the batch for depth `predict`. Without it, a batch is generated.
    key: signs the manifests. It is used before the child is asked: the child opens files of
        unknown origin and gets no key.
    """

    def __init__(
        self,
        budget: Budget = Budget(),  # noqa: B008 - frozen
        probe: Path | None = None,
        key: Key | None = None,
    ) -> None:
        self._budget = budget
        self._probe = probe
        self._key = key
        self._child: Child | None = None
        self._starting = threading.Lock()
        self._ended = ""
        self._ended_seconds = 0.0  # processor seconds of children that have ended
        self._child_seconds = 0.0  # of the current child, at its last answer

    @property
    def cpu_seconds(self) -> float:
        """The processor seconds that all children had used at their last answers."""
        return self._ended_seconds + self._child_seconds

    def verify(self, path: Path, now: float, depth: Depth = "load") -> Verification:
        """Verify the checkpoint in `path` at each depth up to `depth`.

        Only the depths `bytes` and `structure` give findings. If the files are good and stock
        Keras does not load them as they were saved, the Verification is good, has the depth
        that was passed, and says what is not portable. If the model cannot be called, it has
        depth `load` and a note. If the child gives no answer, it is not `done`.
        """
        shallow = self.verify_files(path, now, depth)
        if depth in ("bytes", "structure") or not (shallow.good and shallow.done):
            return shallow
        return self.verify_load(path, now, depth)

    def verify_files(self, path: Path, now: float, depth: Depth) -> Verification:
        """Verify the files only: at the depths up to `depth` that do not load the model."""
        files: ShallowDepth = "bytes" if depth == "bytes" else "structure"
        return depths.verify_files(path, files, now, self._key)

    def verify_load(self, path: Path, now: float, depth: Depth) -> Verification:
        """Verify at the depths that load the model. The files must be good."""
        try:
            answer = self._ask(path, depth)
        except ChildError as error:
            self.close()
            note = f"not loaded: {self._ended or error}"
            return Verification("structure", now, note=note, done=False)
        return Verification(
            answer["reached"],
            now,
            note=answer["note"],
            not_portable=tuple(Finding(**finding) for finding in answer["not_portable"]),
        )

    def start(self) -> None:
        """Start the child before it is needed. May be called from another thread."""
        with suppress(ChildError):  # the first checkpoint reports it
            self._running_child()

    def _running_child(self) -> Child:
        with self._starting:
            if self._child is None and not self._ended:
                key = self._key
                environ = os.environ if key is None else key.remove_from(os.environ)
                self._child = Child(CHILD, environ)
            if self._child is None or self._ended:  # another thread may have called `stop`
                raise ChildError(self._ended)
            return self._child

    def _ask(self, path: Path, depth: Depth) -> dict[str, Any]:
        child = self._running_child()
        question = {
            "path": str(path.absolute()),
            "trusted": trusted_digests(),
            "depth": depth,
            "probe": None if self._probe is None else str(self._probe.absolute()),
        }
        answer = child.ask(question, self._budget)
        self._child_seconds = answer["cpu_seconds"]
        if answer["failure"]:
            raise ChildError(answer["failure"])
        return answer

    @property
    def pid(self) -> int | None:
        """The process id of the child, None if there is no child."""
        return self._child.pid if self._child else None

    def stop(self, why: str) -> None:
        """Stop loading checkpoints, also the current one. May be called from another thread.

        why: for the notes of checkpoints that are not loaded.
        """
        self._ended = why
        child = self._child
        if child is not None:
            child.kill()

    def close(self) -> None:
        """End the child. The next checkpoint starts a new one."""
        if self._child is not None:
            self._child.close()
            self._child = None
            self._ended_seconds, self._child_seconds = self.cpu_seconds, 0.0

    def __enter__(self) -> LoaderClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
