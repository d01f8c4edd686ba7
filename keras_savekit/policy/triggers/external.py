"""Triggers from outside the training: a signal, a file, a deadline.

They only read what the session saw; see `base.moment.ExternalRequests`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator

from keras_savekit.base.moment import NEVER, Horizon, Moment, Tick
from keras_savekit.base.text import number_text, show, suggest
from keras_savekit.policy.fields import Text, read_each, wrong
from keras_savekit.policy.signing import VARIABLE
from keras_savekit.policy.triggers.base import Requests, Response, Trigger, register
from keras_savekit.policy.units import Duration, duration_text

# Those that a process can catch, and that ask it for something.
SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGXCPU", "SIGCONT")
_FILE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")
_TAKEN = (
    "checkpoints",
    "quarantine",
    "latest",
    "best",
    "savekit.json",
    "events.jsonl",
    "probe.npz",
)


def _read_signals(value: object) -> tuple[str, ...]:
    def read(item: object) -> str:
        name = item.upper() if isinstance(item, str) else ""
        name = name if name.startswith("SIG") else f"SIG{name}"
        if name in ("SIGKILL", "SIGSTOP"):
            raise wrong(f"{name} cannot be caught by any process; SIGTERM comes before SIGKILL")
        if name not in SIGNALS:
            raise wrong(f"must be the name of a signal, got {show(item)}; {suggest(name, SIGNALS)}")
        return name

    items = value if isinstance(value, list | tuple) else [value]
    if not items:
        raise wrong("needs at least one signal, got an empty list")
    return read_each(items, read)


_THEN = {
    "stop": "which stops training",
    "exit": "which stops training and ends the process",
    "continue": "after which training continues",
}


@register
class Signal(Trigger):
    """At the next step after one of several signals came, then training stops or continues.

    One save answers all that come before that step. `then: exit` ends the
    process when `fit` has ended and everything is saved, with the exit status that
    the signal alone would have given (128 + its number). `grace` is what the
    sender leaves until it kills: a save that would take longer, judged by the previous
    one, is not begun, and `fit` waits no longer than that for what is under
    way.
    """

    key: ClassVar[str] = "signal"
    example: ClassVar[str] = "{signal: [SIGTERM, SIGUSR1]}"
    spelling: ClassVar[str] = "signal SIGTERM SIGUSR1"
    body: ClassVar[str] = "names"

    names: Annotated[tuple[str, ...], BeforeValidator(_read_signals)] = Field(
        description="a list such as [SIGTERM, SIGUSR1]"
    )
    then: Literal["stop", "continue", "exit"] = Field(
        "stop", description="what training does after it"
    )
    grace: Duration | None = Field(None, description="time from the signal to the kill, as 30s")

    def reason(self, tick: Tick) -> str | None:
        """Return a text such as `SIGTERM came`."""
        came = [name for name in self.names if name in tick.requests.signals]
        return f"{' and '.join(came)} came" if came else None

    def requests(self, environ: Mapping[str, str]) -> Requests:
        """Return its signals, and the time they leave."""
        return Requests(signals=self.names, grace=self.grace)

    def response(self, tick: Tick) -> Response:
        """Answer the signals that came; stop or exit as `then` says."""
        came = tick.requests.signals.intersection(self.names)
        stop = bool(came) and self.then != "continue"
        return Response(signals=came, stop=stop, exit=bool(came) and self.then == "exit")

    def horizon(self, now: Moment, stretch: int) -> Horizon:
        """It hears only of what comes from outside."""
        return NEVER

    def describe(self) -> str:
        """Return a text such as `when SIGTERM comes, which stops training`."""
        then = _THEN[self.then]
        grace = "" if self.grace is None else f", within {duration_text(self.grace)}"
        return f"when {' or '.join(self.names)} comes, {then}{grace}"

    def written(self) -> dict[str, Any]:
        """With the grace period as people write it."""
        grace = {} if self.grace is None else {"grace": duration_text(self.grace)}
        return {**super().written(), **grace}

    @classmethod
    def from_words(cls, words: list[str]) -> Trigger:
        """Read words such as `SIGTERM SIGUSR1`, `SIGUSR1 then continue`."""
        if len(words) > 2 and words[-2] == "then":
            return cls(names=words[:-2], then=words[-1])
        return cls(names=words)


@register
class FileRequested(Trigger):
    """When a file of this name is in the run's directory; a save that is under way removes it."""

    key: ClassVar[str] = "file"
    example: ClassVar[str] = "{file: SAVE_NOW}"
    spelling: ClassVar[str] = "file SAVE_NOW"
    body: ClassVar[str] = "name"

    name: Text = Field(description="a file's name in the run's directory")

    @field_validator("name")
    @classmethod
    def _of_its_own(cls, name: str) -> str:
        if not _FILE.fullmatch(name):
            raise wrong(
                "must be the name of a file: 1 to 100 letters, digits, _, - or ., none of them"
                f" a leading dot; got {show(name)}"
            )
        if name in _TAKEN:
            raise wrong(f"{show(name)} is in every run's directory; choose another name")
        return name

    def reason(self, tick: Tick) -> str | None:
        """Return `the file SAVE_NOW requested it`."""
        found = self.name in tick.requests.files
        return f"the file {self.name} requested it" if found else None

    def requests(self, environ: Mapping[str, str]) -> Requests:
        """Return the name of its file."""
        return Requests(files=(self.name,))

    def response(self, tick: Tick) -> Response:
        """Have the file removed, if it is there."""
        return Response(files=tick.requests.files.intersection({self.name}))

    def horizon(self, now: Moment, stretch: int) -> Horizon:
        """It hears only of what comes from outside."""
        return NEVER

    def describe(self) -> str:
        """Return a text such as `when the file SAVE_NOW appears`."""
        return f"when the file {self.name} appears"

    @classmethod
    def from_words(cls, words: list[str]) -> Trigger:
        """Read words such as `SAVE_NOW`."""
        return cls(name=" ".join(words))


def _read_at(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = number_text(value)
    if not isinstance(value, str) or not (VARIABLE.fullmatch(value) or _instant(value)):
        raise wrong(
            "must be a time such as 2030-01-31T18:00:00+01:00, seconds since 1970, or"
            f" env NAME for a variable that holds one; got {show(value)}"
        )
    return value


def _instant(text: str) -> float | None:
    """Seconds since 1970; a time without a zone is in the machine's own."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            # Python 3.10 does not know that Z is +00:00.
            return datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text)).timestamp()
        except (ValueError, OverflowError, OSError):
            return None
    return seconds if 0 < seconds < 1e12 else None


@register
class BeforeDeadline(Trigger):
    """Once, when less than a margin of time is left before a deadline."""

    key: ClassVar[str] = "before_deadline"
    example: ClassVar[str] = "{before_deadline: {at: env SLURM_JOB_END_TIME, margin: 5m}}"

    at: Annotated[str, BeforeValidator(_read_at)] = Field(
        description="a time, seconds since 1970, or env NAME"
    )
    margin: Duration = Field(300.0, description="how long before it, such as 5m")
    then: Literal["stop", "continue"] = Field("continue", description="what training does after it")

    @property
    def memory_key(self) -> str:
        """The key under which the memory holds the deadline it fired for."""
        return f"deadline {self.at} {number_text(self.margin)}"

    def deadline(self, environ: Mapping[str, str]) -> float | None:
        """Seconds since 1970; None if the variable is not set or holds no time."""
        variable = VARIABLE.fullmatch(self.at)
        return _instant(environ.get(variable[1], "") if variable else self.at)

    def requests(self, environ: Mapping[str, str]) -> Requests:
        """Return its deadline."""
        return Requests(deadlines={self.at: self.deadline(environ)})

    def response(self, tick: Tick) -> Response:
        """Stop training, if `then` says so."""
        return Response(stop=bool(self.learn(tick)) and self.then == "stop")

    def reason(self, tick: Tick) -> str | None:
        """Return a text such as `5m before the deadline`."""
        return f"{duration_text(self.margin)} before the deadline" if self.learn(tick) else None

    def learn(self, tick: Tick) -> dict[str, float]:
        """That it fired for this deadline."""
        deadline = tick.requests.deadlines.get(self.at)
        if deadline is None or tick.memory.get(self.memory_key) == deadline:
            return {}
        return {self.memory_key: deadline} if tick.requests.wall >= deadline - self.margin else {}

    def describe(self) -> str:
        """Return a text such as `5m before the deadline (env SLURM_JOB_END_TIME)`."""
        then = ", which stops training" if self.then == "stop" else ""
        return f"{duration_text(self.margin)} before the deadline ({self.at}){then}"

    def written(self) -> dict[str, Any]:
        """With the margin as people write it."""
        return {**super().written(), "margin": duration_text(self.margin)}
