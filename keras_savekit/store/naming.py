"""A checkpoint's name and its directory's name: a pair, total and inverse.

`000001200-latest` is step 1200 of the plan `latest`. Nine digits make names
sort by step for as long as most runs last; order never relies on it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_DIGITS = 9
_MAX_STEP = 10**18
_PLAN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}", re.ASCII)
_NAME = re.compile(r"([0-9]{9}|[1-9][0-9]{9,17})-(.+)", re.ASCII | re.DOTALL)


@dataclass(frozen=True, slots=True, order=True)
class CheckpointName:
    """The name of one checkpoint.

    step: of the checkpoint's moment, 0 or more.
    plan: name of the plan that saved it: letters, digits, `_`, `.` and `-`,
        at most 100, not beginning with `.`.
    """

    step: int
    plan: str

    def __post_init__(self) -> None:
        if not 0 <= self.step < _MAX_STEP:
            raise ValueError(f"step must be between 0 and 10**18, got {self.step}")
        if not _PLAN.fullmatch(self.plan):
            raise ValueError(
                "a plan's name has letters, digits, '_', '.' and '-', at most 100, "
                f"and does not begin with '.'; got {self.plan!r}"
            )

    def __str__(self) -> str:
        return f"{self.step:0{_DIGITS}d}-{self.plan}"

    @classmethod
    def parse(cls, name: str) -> CheckpointName | None:
        """The checkpoint name that `str` writes as `name`, None if there is none."""
        match = _NAME.fullmatch(name)
        if not match or not _PLAN.fullmatch(match[2]):
            return None
        return cls(int(match[1]), match[2])
