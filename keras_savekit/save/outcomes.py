"""What the background reports: to the thread that trains, and to the event log.

Any thread may add; the training thread takes everything at its next hook. Nothing
here decides what a failure means.
"""

from __future__ import annotations

from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from keras_savekit.errors import SaveError, SavekitError
from keras_savekit.policy.plan import Due, SavePlan
from keras_savekit.store.event_log import EventLog

T = TypeVar("T")

_UNAFFECTED = "every earlier checkpoint in the list is unaffected; `savekit list` shows them"


class Outcomes:
    """The problems, notices, retries and deferred events of one session. Thread-safe.

    A problem is a failed save or verification. A notice is something that the user
    should know although no save failed. A retry is a save that is due again.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._problems: SimpleQueue[SavekitError] = SimpleQueue()
        self._notices: SimpleQueue[str] = SimpleQueue()
        self._retries: SimpleQueue[Due] = SimpleQueue()
        self._events: SimpleQueue[tuple[str, dict[str, Any]]] = SimpleQueue()
        self._noticed: set[str] = set()  # the subjects of `notice_once`
        self._retried: set[str] = set()  # plans that have had no good checkpoint since

    # Added by any thread.

    def add_problem(self, problem: SavekitError) -> None:
        """Report a failure."""
        self._problems.put(problem)

    def add_notice(self, text: str) -> None:
        """Report something that the user should know."""
        self._notices.put(text)

    def add_notice_once(self, text: str) -> None:
        """Report a text, unless one with the same words before its colon was reported."""
        subject = text.partition(":")[0]
        if subject not in self._noticed:  # the event log has all of them
            self._noticed.add(subject)
            self._notices.put(text)

    def add_retry(self, plan: SavePlan, why: str) -> None:
        """Have a plan saved again; only once until `allow_retry` is called for it."""
        if plan.name not in self._retried:
            self._retried.add(plan.name)
            self._retries.put(Due(plan, (why,)))

    def allow_retry(self, plan: SavePlan) -> None:
        """Note that a plan has a good checkpoint again."""
        self._retried.discard(plan.name)

    def defer_event(self, kind: str, **fields: Any) -> None:
        """Have an event logged by `write_events`: the training thread does not touch the disk."""
        self._events.put((kind, fields))

    def write_events(self) -> None:
        """Append the deferred events to the log."""
        for kind, fields in _drain(self._events):
            self._log.append(kind, **fields)

    # Taken by the training thread.

    @property
    def empty(self) -> bool:
        """Whether there is no problem, no notice and no retry. Costs no disk access."""
        return self._notices.empty() and self._problems.empty() and self._retries.empty()

    def problems(self) -> list[SavekitError]:
        """Take the problems since the last call."""
        return _drain(self._problems)

    def notices(self) -> list[str]:
        """Take the notices since the last call, and report once that events are missing."""
        unlogged = self._log.failure()
        found = [f"{unlogged}\n  checkpoints are not affected"] if unlogged else []
        return found + _drain(self._notices)

    def retries(self) -> list[Due]:
        """Take the saves that are due again since the last call."""
        return _drain(self._retries)


def failure_of(what: str, error: Exception, place: str) -> SaveError:
    """Return the problem that reports an exception of the background.

    what: the operation that failed, in words.
    place: where, if the exception does not say it.
    """
    remedy = _UNAFFECTED
    if isinstance(error, SavekitError):
        place, remedy = error.where, "\n  ".join(filter(None, (error.remedy, _UNAFFECTED)))
    problem = SaveError(f"{what}: {reason_of(error)}", place, remedy)
    problem.__cause__ = error
    return problem


def reason_of(error: Exception) -> str:
    """Return why something failed, on one line, without the place and the remedy."""
    return error.what if isinstance(error, SavekitError) else f"{type(error).__name__}: {error}"


def _drain(queue: SimpleQueue[T]) -> list[T]:
    """Take everything out. Two threads may do this at once."""
    found = []
    with suppress(Empty):
        while not queue.empty():
            found.append(queue.get_nowait())
    return found
