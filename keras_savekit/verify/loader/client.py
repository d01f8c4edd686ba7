"""Depths `load` and `predict`: a process of its own loads the checkpoint with stock Keras.

The child is started once, kept between checkpoints, started again when it is gone, and
never imports what trains here. It is never the reason that training fails or hangs:
a checkpoint that it gave no answer to stays unverified, and the note says why.

What these depths find is no evidence of damage, which `structure` has looked for in every
tensor: the checkpoint is good, and not portable.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from keras_savekit.base.key import Key
from keras_savekit.convert.trust import trusted
from keras_savekit.store.manifest import Depth, Finding, Verification
from keras_savekit.verify.depths import ShallowDepth, verify_files
from keras_savekit.verify.loader.process import Budget, Child, ChildError

CHILD = "keras_savekit.verify.loader.child"


class LoaderClient:
    """Verifies checkpoints at any depth, one after another. A context manager.

    budget: what one checkpoint may cost.
    probe: where a batch lies that models are asked with, if one does; else it is drawn.
    key: that manifests must be signed with. What it vouches for is known before the child
        is asked, which opens files of whomever and gets no key.
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
        self._before = 0.0  # processor seconds of children that are gone
        self._now = 0.0  # and of the one that lives, when it last answered

    @property
    def computed(self) -> float:
        """Processor seconds that children have spent, as far as they have told."""
        return self._before + self._now

    def verify(self, path: Path, now: float, depth: Depth = "load") -> Verification:
        """Check `path` at every depth up to `depth`.

        Only the depths `bytes` and `structure` give findings. When the files are good and
        stock Keras does not load them as they were saved, the outcome is good, has the
        depth that was passed, and says what is not portable; when the model cannot be
        asked, depth `load` and a note; when the child gave no answer, it is not done.
        """
        shallow = self.look(path, now, depth)
        if depth in ("bytes", "structure") or not (shallow.good and shallow.done):
            return shallow
        return self.load(path, now, depth)

    def look(self, path: Path, now: float, depth: Depth) -> Verification:
        """Check it at the depths, up to `depth`, that load nothing."""
        files: ShallowDepth = "bytes" if depth == "bytes" else "structure"
        return verify_files(path, files, now, self._key)

    def load(self, path: Path, now: float, depth: Depth) -> Verification:
        """Check one whose files are good at the depths that load it."""
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
            not_portable=tuple(Finding(**each) for each in answer["not_portable"]),
        )

    def start(self) -> None:
        """Start the child, so that it is ready when it is asked. For other threads too."""
        with suppress(ChildError):  # it is told when there is something to ask
            self._living()

    def _living(self) -> Child:
        with self._starting:
            if self._child is None and not self._ended:
                key = self._key
                environ = os.environ if key is None else key.remove_from(os.environ)
                self._child = Child(CHILD, environ)
            if self._child is None or self._ended:  # just now, maybe
                raise ChildError(self._ended)
            return self._child

    def _ask(self, path: Path, depth: Depth) -> dict[str, Any]:
        child = self._living()
        question = {
            "path": str(path.absolute()),
            "trusted": trusted(),
            "depth": depth,
            "probe": None if self._probe is None else str(self._probe.absolute()),
        }
        answer = child.ask(question, self._budget)
        self._now = answer["computed"]
        if answer["undone"]:
            raise ChildError(answer["undone"])
        return answer

    @property
    def pid(self) -> int | None:
        """The child's process id while it lives."""
        return self._child.pid if self._child else None

    def end(self, why: str) -> None:
        """Load no more checkpoints, the one under way neither. For other threads too."""
        self._ended = why
        child = self._child
        if child is not None:
            child.kill()

    def close(self) -> None:
        """End the child. The next checkpoint starts another."""
        if self._child is not None:
            self._child.close()
            self._child = None
            self._before, self._now = self.computed, 0.0

    def __enter__(self) -> LoaderClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
