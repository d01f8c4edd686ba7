"""What became of many tries to break one promise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """One line of the scoreboard.

    promise: what was tried to break, as a sentence that holds if nothing failed.
    tries: how often.
    failures: each try that broke it, in words that let it be repeated.
    """

    promise: str
    tries: int
    failures: tuple[str, ...] = ()

    @property
    def survived(self) -> int:
        return self.tries - len(self.failures)
