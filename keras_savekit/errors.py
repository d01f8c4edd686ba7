"""Every error this package raises on purpose.

    SavekitError                 what happened, where, what to do        exit code 2
    ├── PolicyError              a policy cannot be used: all its problems at once
    ├── DirectoryError           a run's directory cannot be used
    │   └── DirectoryInUseError  another live process writes into it
    ├── ModelError               this model cannot be saved as asked
    ├── ConversionError          this TensorFlow model cannot be turned into a Keras model
    ├── DataError                data that cannot be resumed from
    ├── MetricError              not raised any more; kept for programs that catch it
    ├── MismatchError            the model and a checkpoint do not fit together
    ├── CheckpointError          a checkpoint is damaged or cannot be read   exit code 1
    │   └── UnverifiableError    the system failed: whether it is damaged is unknown
    ├── ResumeError              no checkpoint to resume from, or none could be verified
    └── SaveError                a save in the background failed

Foreign exceptions are translated into these once, where they enter, and kept
as the cause.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass


def shown(text: object) -> str:
    """`text` on one line, without anything a terminal would obey."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in str(text)
    )


class SavekitError(Exception):
    """What happened, where, and what to do about it.

    All fields travel by position, so that an error survives pickling between
    processes.
    """

    exit_code = 2

    def __init__(self, what: str, where: str = "", remedy: str = "") -> None:
        super().__init__(what, where, remedy)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        place = f" [{self.where}]" if self.where else ""
        remedy = f"\n  {self.remedy}" if self.remedy else ""
        return "\n".join(shown(line) for line in f"{self.what}{place}{remedy}".split("\n"))


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a policy.

    `line` and `column` count from 1; both are 0 where the policy did not come
    from a text. `source` is the included file it is in, empty for the policy's own.
    """

    path: str
    message: str
    line: int = 0
    column: int = 0
    source: str = ""

    def __str__(self) -> str:
        file = f"{self.source}, " if self.source else ""
        place = f"line {self.line}, column {self.column}: " if self.line else ""
        path = f"{self.path}: " if self.path else ""
        return f"{file}{place}{path}{self.message}"


class PolicyError(SavekitError):
    """A policy cannot be used; `problems` names every reason, in reading order."""

    def __init__(self, source: str, problems: tuple[Problem, ...]) -> None:
        Exception.__init__(self, source, problems)
        self.source = source
        self.problems = problems
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        self.what = f"{source} cannot be used ({count})"
        self.where = ""
        self.remedy = "\n  ".join(str(problem) for problem in problems)


class DirectoryError(SavekitError):
    """A run's directory cannot be used; nothing in it was changed."""


class DirectoryInUseError(DirectoryError):
    """Another live process holds this run's directory."""


class ModelError(SavekitError):
    """This model cannot be saved as the policy asks; training has not started."""


class ConversionError(SavekitError):
    """This TensorFlow model cannot be turned into a Keras model, or its code may not run."""


class DataError(SavekitError):
    """Data that training cannot resume from; training has not started."""


class MetricError(SavekitError):
    """Not raised any more: a metric that `fit` does not report is a SavekitWarning.

    Kept for programs that catch it; see docs/versions.md.
    """


class MismatchError(SavekitError):
    """The model and a checkpoint do not fit together; the model is unchanged."""


class CheckpointError(SavekitError):
    """A checkpoint is damaged or cannot be read."""

    exit_code = 1


class UnverifiableError(CheckpointError):
    """The system failed while a checkpoint was read; nothing says that it is damaged.

    number: the errno of that failure, 0 if there is none.
    """

    def __init__(self, what: str, where: str = "", remedy: str = "", number: int = 0) -> None:
        super().__init__(what, where, remedy)
        self.args = (what, where, remedy, number)
        self.number = number

    @property
    def process_wide(self) -> bool:
        """Whether this process or machine lacks memory or descriptors, for every checkpoint."""
        return self.number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class ResumeError(SavekitError):
    """There is no checkpoint to resume from, or none could be verified; nothing has started."""


class SaveError(SavekitError):
    """A save in the background failed; every checkpoint listed before still stands."""


class SavekitWarning(UserWarning):
    """Something went wrong beside the training, which goes on."""
