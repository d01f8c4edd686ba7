"""Depth `load`: a process of its own loads the checkpoint with stock Keras.

The child is started once, kept between checkpoints, started again when it is gone, and
never imports what trains here. It is never the reason that training fails or hangs:
a checkpoint that it gave no answer to stays unverified, and the note says why.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from keras_savekit.convert.trust import trusted
from keras_savekit.store.manifest import Finding, Verification
from keras_savekit.verify.checks import verify_shallow
from keras_savekit.verify.process import Budget, Child, ChildError

CHILD = "keras_savekit.verify.child"


class LoadChecker:
    """Verifies checkpoints at depth `load`, one after another. A context manager.

    budget: what one checkpoint may cost.
    key: that manifests must be signed with.
    """

    def __init__(self, budget: Budget = Budget(), key: bytes | None = None) -> None:  # noqa: B008 - frozen
        self._budget, self._key = budget, key
        self._child: Child | None = None
        self._ended = ""
        self._before = 0.0  # processor seconds of children that are gone
        self._now = 0.0  # and of the one that lives, when it last answered

    @property
    def computed(self) -> float:
        """Processor seconds that children have spent, as far as they have told."""
        return self._before + self._now

    def verify(self, path: Path, now: float) -> Verification:
        """Check `path` at every depth up to `load`.

        When the files are good and stock Keras cannot load code of the user's, the
        outcome has depth `structure` and a note that says so; when the child gave no
        answer, it is besides not done.
        """
        shallow = verify_shallow(path, "structure", now, self._key)
        if not shallow.good:
            return shallow
        try:
            findings, note = self._ask(path)
        except ChildError as error:
            self.close()
            note = f"not loaded: {self._ended or error}"
            return Verification("structure", now, note=note, done=False)
        if note and not findings:
            return Verification("structure", now, note=note)
        return Verification("load", now, findings, note)

    def _ask(self, path: Path) -> tuple[tuple[Finding, ...], str]:
        if self._child is None and not self._ended:
            self._child = Child(CHILD)
        if self._child is None or self._ended:  # just now, maybe
            raise ChildError(self._ended)
        question = {"path": str(path.absolute()), "trusted": trusted()}
        answer = self._child.ask(question, self._budget)
        self._now = answer["computed"]
        if answer["undone"]:
            raise ChildError(answer["undone"])
        return tuple(Finding(**each) for each in answer["findings"]), answer["note"]

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

    def __enter__(self) -> LoadChecker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
