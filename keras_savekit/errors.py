"""Every error that this package raises on purpose.

    SavekitError                 what happened, where, what to do        exit code 2
    ├── PolicyError              a policy cannot be used; lists all its problems
    ├── DirectoryError           a run's directory cannot be used
    │   └── DirectoryInUseError  another live process writes to it
    ├── ModelError               this model cannot be saved as requested
    ├── ConversionError          this TensorFlow model cannot be converted to a Keras model
    ├── DataError                training cannot resume with this data
    ├── MetricError              not raised any more; kept for programs that catch it
    ├── MismatchError            the model and a checkpoint do not match
    ├── CheckpointError          a checkpoint is damaged or cannot be read   exit code 1
    │   └── UnverifiableError    the system failed to read it: whether it is damaged is unknown
    ├── ResumeError              no checkpoint to resume from, or none could be verified
    └── SaveError                a save in the background failed

Exceptions of other libraries are translated into these once, where they are caught.
They stay as the cause if they say more than our message.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass


def printable_text(value: object) -> str:
    """Return the text of `value` on one line; escape characters that control a terminal."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in str(value)
    )


class SavekitError(Exception):
    """What happened, where, and what to do about it.

    All fields are positional arguments of `Exception`, so that an error can be
    pickled from one process to another.
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
        return "\n".join(printable_text(line) for line in f"{self.what}{place}{remedy}".split("\n"))


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a policy.

    path: of the key in the policy, such as `plans[0].when`.
    line, column: from 1; both are 0 if the policy was not read from a text.
    source: the included file that contains it; empty for the policy file itself.
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
    """A policy cannot be used; `problems` lists every reason, in the order of the text."""

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
    """Another live process uses this run's directory."""


class ModelError(SavekitError):
    """This model cannot be saved as the policy requests; training has not started."""


class ConversionError(SavekitError):
    """This TensorFlow model cannot be converted to Keras, or its code is not allowed to run."""


class DataError(SavekitError):
    """Training cannot resume with this data; training has not started."""


class MetricError(SavekitError):
    """Not raised any more: a metric that `fit` does not report is a SavekitWarning.

    Kept for programs that catch it; see docs/versions.md.
    """


class MismatchError(SavekitError):
    """The model and a checkpoint do not match; the model is unchanged."""


class CheckpointError(SavekitError):
    """A checkpoint is damaged or cannot be read."""

    exit_code = 1


class UnverifiableError(CheckpointError):
    """The system failed to read a checkpoint; there is no evidence that it is damaged.

    number: the errno of the failure, 0 if there is none.
    """

    def __init__(self, what: str, where: str = "", remedy: str = "", number: int = 0) -> None:
        super().__init__(what, where, remedy)
        self.args = (what, where, remedy, number)
        self.number = number

    @property
    def process_wide(self) -> bool:
        """Whether memory or file descriptors are exhausted, which affects every checkpoint."""
        return self.number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class ResumeError(SavekitError):
    """No checkpoint to resume from, or none could be verified; training has not started."""


class SaveError(SavekitError):
    """A save in the background failed; earlier checkpoints are unchanged."""


class SavekitWarning(UserWarning):
    """A problem outside of the training itself; training continues."""
