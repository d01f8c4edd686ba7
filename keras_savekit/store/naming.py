"""The names that this package gives on disk, and their parsers: pairs, total and inverse.

Only entries that carry such a name in full are removed, renamed or replaced: a
`.scratch-notes/` in a run's directory belongs to the user.

`000001200-latest` is step 1200 of the plan `latest`. `000001200-latest~2` is a second
checkpoint of that step and plan, saved after the end of training changed the weights.
With nine digits names sort by step in most runs; the code never relies on that.

`.scratch-000001200-latest-4711-0badcafe` is the directory that process 4711 fills
before it renames it to `000001200-latest`; see `Leftover`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast, get_args

_DIGITS = 9
_MAX_STEP = 10**18
_PLAN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}", re.ASCII)
_NAME = re.compile(r"([0-9]{9}|[1-9][0-9]{9,17})-([^~]+)(?:~([2-9]))?", re.ASCII | re.DOTALL)


@dataclass(frozen=True, slots=True, order=True)
class CheckpointName:
    """The name of one checkpoint.

    step: of the checkpoint's moment, 0 or more.
    plan: name of the plan that saved it: letters, digits, `_`, `.` and `-`,
        at most 100, not beginning with `.`.
    number: 1, or for a later checkpoint of the same step up to 9.
    """

    step: int
    plan: str
    number: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.step < _MAX_STEP:
            raise ValueError(f"step must be between 0 and 10**18, got {self.step}")
        if not _PLAN.fullmatch(self.plan):
            raise ValueError(
                "a plan's name has letters, digits, '_', '.' and '-', at most 100, "
                f"and does not begin with '.'; got {self.plan!r}"
            )
        if not 1 <= self.number <= 9:
            raise ValueError(f"number must be between 1 and 9, got {self.number}")

    def __str__(self) -> str:
        again = "" if self.number == 1 else f"~{self.number}"
        return f"{self.step:0{_DIGITS}d}-{self.plan}{again}"

    @classmethod
    def parse(cls, name: str) -> CheckpointName | None:
        """Parse the name of a checkpoint, None if it is none. The inverse of `str`."""
        match = _NAME.fullmatch(name)
        if not match or not _PLAN.fullmatch(match[2]):
            return None
        return cls(int(match[1]), match[2], int(match[3] or 1))


Kind = Literal["scratch", "writing", "link", "removing"]
KINDS: tuple[Kind, ...] = get_args(Kind)
LONGEST_PID = 4_194_304  # proc(5), pid_max
_LEFTOVER = re.compile(
    rf"\.({'|'.join(KINDS)})-([^/\0]+)-([1-9][0-9]{{0,9}})-([0-9a-f]{{8}})", re.ASCII
)
_NONCE = re.compile(r"[0-9a-f]{8}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Leftover:
    """The temporary name of an entry that is being made or removed; crashes leave it behind.

    kind: `scratch`, a directory that becomes a checkpoint; `writing`, a file; `link`;
        `removing`, a checkpoint that is being removed.
    target: its final name, or, if it is being removed, its former one.
    pid: id of the process that made it.
    nonce: eight random hexadecimal digits.
    """

    kind: Kind
    target: str
    pid: int
    nonce: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if not self.target or "/" in self.target or "\0" in self.target:
            raise ValueError(f"target must be a file's name, got {self.target!r}")
        if not 1 <= self.pid < 10**10:
            raise ValueError(f"pid must be between 1 and 10**10, got {self.pid}")
        if not _NONCE.fullmatch(self.nonce):
            raise ValueError(f"nonce must be 8 hexadecimal digits, got {self.nonce!r}")

    def __str__(self) -> str:
        return f".{self.kind}-{self.target}-{self.pid}-{self.nonce}"

    @classmethod
    def parse(cls, name: str) -> Leftover | None:
        """Parse a temporary name, None if it is none. The inverse of `str`."""
        match = _LEFTOVER.fullmatch(name)
        return match and cls(cast("Kind", match[1]), match[2], int(match[3]), match[4])
