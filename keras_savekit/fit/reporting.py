"""Report to the user: facts by `logging`, what went wrong by warnings.

Facts are visible without any setup: if neither the package's logger nor the root
logger has a handler, the first session adds one that writes the bare message to
stdout. Whoever configures logging decides instead.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from keras_savekit.base.user_warning import warn
from keras_savekit.errors import SaveError, SavekitError, printable_text

_PACKAGE = "keras_savekit"
_LOGGER = logging.getLogger("keras_savekit.fit")
_SHOWN = 5  # names in a warning


class _Console(logging.Handler):
    """Write bare messages to stdout, until the root logger has a handler."""

    def emit(self, record: logging.LogRecord) -> None:
        if logging.root.handlers or getattr(record, "quiet", False):
            return
        try:
            sys.stdout.write(f"{self.format(record)}\n")
            sys.stdout.flush()
        except (OSError, ValueError):  # a closed stream ends no training
            self.handleError(record)


def _show_by_default() -> None:
    package = logging.getLogger(_PACKAGE)
    if package.handlers or logging.root.handlers:
        return
    package.addHandler(_Console())
    if package.level == logging.NOTSET:
        package.setLevel(logging.INFO)


class Reporter:
    """What one session reports.

    quiet: `fit(verbose=0)`: no facts on the console, only warnings. Handlers that the
        user has configured get them with `quiet` set in the record.
    """

    def __init__(self, *, quiet: bool) -> None:
        _show_by_default()
        self._quiet = quiet
        self._subjects: set[str] = set()

    def info(self, text: str) -> None:
        """Log a fact."""
        _LOGGER.info("%s", text, extra={"quiet": self._quiet})

    def info_once(self, subject: str, text: str) -> None:
        """Log a fact about a subject, the first time."""
        if subject not in self._subjects:
            self._subjects.add(subject)
            self.info(text)

    def warn(self, text: str) -> None:
        """Warn at the user's line; nothing happens for an empty text."""
        if text:
            warn(text)

    def warn_once(self, subject: str, text: str) -> None:
        """Warn about a subject, the first time that there is something to say."""
        if text and subject not in self._subjects:
            self._subjects.add(subject)
            warn(text)

    def problems(self, notices: Sequence[str], problems: Sequence[SavekitError]) -> None:
        """Warn about everything that the background reported."""
        for text in (*notices, *map(str, problems)):
            warn(text)


def combined(problems: Sequence[SavekitError]) -> SaveError:
    """Return one error for several: the first, with the others in its remedy."""
    first, *others = problems
    remedy = "\n  ".join([first.remedy, *(f"also: {other.what}" for other in others)])
    error = SaveError(first.what, first.where, remedy)
    error.__cause__ = first.__cause__
    return error


def foreign_entries(names: Sequence[str], place: object) -> str:
    """Return a sentence about the entries that are the user's; empty if there are none."""
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return printable_text(
        f"not checkpoints, and left alone in {place}: {', '.join(names[:_SHOWN])}{more}"
    )


def count_of(checkpoints: int) -> str:
    """Return a number of checkpoints in words."""
    return f"{checkpoints} checkpoint{'' if checkpoints == 1 else 's'}"
