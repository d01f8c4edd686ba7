"""What a run's policy is, and what it says at one tick.

`decide` runs triggers and builds nothing unless a save is due; `horizon` says how
long it need not be asked. Reading a policy from text is `yaml.load`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_serializer, field_validator, model_validator

from keras_savekit.base.moment import NEVER, Horizon, Moment, Tick, nearest
from keras_savekit.base.text import plural, show
from keras_savekit.errors import Problem
from keras_savekit.policy.fields import Text, Value, Whole, WrongValueError, wrong
from keras_savekit.policy.resume import Resume, Resuming
from keras_savekit.policy.rules.kinds import All
from keras_savekit.policy.rules.registry import Rules
from keras_savekit.policy.signing import Signing, read_signing
from keras_savekit.policy.to_yaml import policy_text
from keras_savekit.policy.triggers.base import Trigger, leaves
from keras_savekit.policy.triggers.registry import Triggers
from keras_savekit.policy.units import (
    Duration,
    Share,
    Size,
    Wait,
    duration_text,
    share_text,
    size_text,
)

FORMATS = {"model": ("h5", "keras"), "weights": ("weights.h5",)}
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class SavePlan(Value):
    """One entry of a policy: what to save, when, how long to keep it, how deeply to verify.

    `when` and `keep` also take short strings, the YAML shapes, and lists of them.
    """

    name: str = Field(description="a word for this plan; checkpoints are named after it")
    save: Literal["model", "weights"] = "model"
    format: Literal["h5", "keras", "weights.h5"] = "h5"
    compression: Literal["gzip", "lzf"] | None = None
    reuse: bool = Field(
        False, description="share unchanged bytes with the checkpoint before, where the disk can"
    )
    when: Triggers = Field(description='when to save, such as "every 2 epochs"')
    keep: Rules = (All(),)
    verify: Literal["bytes", "structure", "load", "predict"] = "structure"
    when_busy: Literal["replace", "wait"] = "replace"
    not_finite: Literal["skip", "save"] = "skip"

    @model_validator(mode="before")
    @classmethod
    def _format_by_save(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and fields.get("save") == "weights":
            return {"format": "weights.h5", **fields}
        return fields

    @field_validator("name")
    @classmethod
    def _name_fits_a_directory(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise wrong(
                "must be 1 to 64 letters, digits, _ or -, for it names directories;"
                f" got {show(name)}"
            )
        return name

    @field_validator("when")
    @classmethod
    def _something_happens(cls, when: tuple[Trigger, ...]) -> tuple[Trigger, ...]:
        problems = tuple(
            Problem(
                f"[{index}]",
                f"would save after every batch: {trigger.describe()};"
                " say when to save too: {all: [{every: {epochs: 1}}, {not: ...}]}",
            )
            for index, trigger in enumerate(when)
            if trigger.fires_when_idle()
        )
        if problems:
            raise WrongValueError("when", problems)
        return when

    @model_validator(mode="after")
    def _parts_agree(self) -> SavePlan:
        if self.format not in FORMATS[self.save]:
            raise wrong(
                f"{self.save} is saved as {' or '.join(FORMATS[self.save])}, not {self.format};"
                " leave format out, or change save",
                "format",
            )
        watched = dict(
            ranking[:2] for trigger in leaves(self.when) if (ranking := trigger.ranking())
        )
        for metric, mode, _ in filter(None, (rule.ranking() for rule in self.keep)):
            if watched.get(metric, mode) != mode:
                raise wrong(
                    f"keeps the {mode} of {metric}, but saves when it improves towards"
                    f" the {watched[metric]}; use one mode for both",
                    "keep",
                )
        return self

    def metrics(self) -> frozenset[str]:
        """The metrics that its triggers and rules look at."""
        return frozenset().union(
            *(trigger.metrics() for trigger in self.when), *(rule.metrics() for rule in self.keep)
        )

    def describe(self) -> str:
        """The plan as one sentence."""
        when = ", or ".join(trigger.describe() for trigger in self.when)
        keep = " and ".join(rule.words() for rule in self.keep)
        what = {
            "model": f"the whole model as .{self.format}",
            "weights": f"the weights as .{self.format}",
        }
        busy = "; training waits for it" if self.when_busy == "wait" else ""
        busy += ", also with weights that are not finite" if self.not_finite == "save" else ""
        return (
            f"{self.name}: saves {what[self.save]} {when}{busy};"
            f" keeps {keep}; verifies {self.verify}"
        )


class Limits(Value):
    """What saving may cost.

    queue: snapshots that may wait while one is being written.
    overhead: the share of the time trained that saving may take; above it, the
        intervals in steps and time are made longer.
    disk: bytes that all checkpoints of the run may take.
    free_space: bytes that must stay free on the disk.
    verify_time, verify_memory: what the process that loads a checkpoint may take for
        one; seconds, and bytes of its own.
    final_wait: seconds that `fit` waits at its end for checkpoints to be verified.
    """

    queue: Whole = Field(1, description="how many saves may wait for the writer")
    overhead: Share | None = Field(None, description="a share of the time trained, such as 5%")
    disk: Size | None = Field(None, description="a size such as 100GB")
    free_space: Size | None = Field(None, description="a size such as 2GB")
    verify_time: Duration = Field(600.0, description="a duration such as 10m")
    verify_memory: Size | None = Field(None, description="a size such as 8GB")
    final_wait: Wait | None = Field(None, description="a duration such as 5m, or 0")

    @field_serializer("overhead")
    def _overhead_text(self, value: float | None) -> str | None:
        return None if value is None else share_text(value)

    @field_serializer("verify_time", "final_wait")
    def _duration_text(self, value: float | None) -> str | None:
        return None if value is None else duration_text(value)

    @field_serializer("disk", "free_space", "verify_memory")
    def _size_text(self, value: int | None) -> str | None:
        return None if value is None else size_text(value)

    def describe(self) -> str:
        """What is limited, in English."""
        words = [f"{plural(self.queue, 'save')} may wait"]
        if self.overhead is not None:
            words.append(f"saving may take {share_text(self.overhead)} of the time")
        if self.disk is not None:
            words.append(f"checkpoints may take {size_text(self.disk)}")
        if self.free_space is not None:
            words.append(f"{size_text(self.free_space)} stay free")
        if self.verify_memory is not None:
            words.append(f"loading one to verify it may take {size_text(self.verify_memory)}")
        if self.final_wait is not None:
            words.append(f"the end waits {duration_text(self.final_wait)} for verifications")
        return "; ".join(words)


class Policy(Value):
    """All plans of a run, and its limits."""

    version: Literal[1] = 1
    directory: Text | None = None
    resume: Resuming = Resume(mode="auto", on_mismatch="error")
    plans: tuple[SavePlan, ...] = Field(description="a list of what to save and when")
    limits: Limits = Limits()
    on_failure: Literal["warn", "raise", "resave"] = "warn"
    signing: Annotated[Signing | None, BeforeValidator(read_signing)] = None
    memory: Literal["kept", "low"] = Field(
        "kept",
        description="the copy's memory: kept from save to save, or lent to the system between",
    )

    @field_validator("version", mode="before")
    @classmethod
    def _no_bool(cls, value: object) -> object:
        if isinstance(value, bool):  # True equals 1
            raise wrong(f"must be 1, got {show(value)}")
        return value

    @field_validator("plans", mode="before")
    @classmethod
    def _a_list(cls, value: object) -> object:
        if not isinstance(value, list | tuple):
            raise wrong(f"must be a list, each plan starting with - name: ..., got {show(value)}")
        if not value:
            raise wrong("needs at least one plan, got an empty list")
        return value

    @field_validator("plans")
    @classmethod
    def _own_names(cls, plans: tuple[SavePlan, ...]) -> tuple[SavePlan, ...]:
        names = [plan.name for plan in plans]
        problems = tuple(
            Problem(
                f"[{index}].name", f"{show(name)} is the name of plans[{names.index(name)}] too"
            )
            for index, name in enumerate(names)
            if names.index(name) < index
        )
        if problems:
            raise WrongValueError("plans", problems)
        return plans

    def metrics(self) -> frozenset[str]:
        """The metrics that triggers and rules look at."""
        return frozenset().union(*(plan.metrics() for plan in self.plans))

    def to_yaml(self) -> str:
        """The policy as a YAML text, which `parse_policy` reads back as the same policy."""
        return policy_text(self)

    def describe(self) -> str:
        """The policy in a few lines of English, one for each plan."""
        place = self.directory or "a directory given elsewhere"
        failure = {
            "warn": "a failed save is reported",
            "raise": "a failed save stops training",
            "resave": "a failed save is reported and repeated",
        }
        limits = self.limits.describe()
        signs = "" if self.signing is None else f"; signs checkpoints with {self.signing.key}"
        head = f"in {place}: {self.resume.describe()}; {failure[self.on_failure]}; {limits}{signs}"
        return "\n".join((head, *(plan.describe() for plan in self.plans)))


@dataclass(frozen=True, slots=True)
class Due:
    """A plan whose time has come, and why."""

    plan: SavePlan
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """What to save now, and what the next tick must remember."""

    due: tuple[Due, ...]
    memory: Mapping[str, float]


def decide(policy: Policy, tick: Tick) -> Decision:
    """Which plans are due at `tick`, and the memory after it.

    The tick's own memory is returned, unchanged, if nothing was learned.
    """
    due: list[Due] = []
    learned: dict[str, float] = {}
    for plan in policy.plans:
        reasons: list[str] = []
        seen = tick.for_plan(plan.name)
        for trigger in plan.when:
            reason = trigger.reason(seen)
            if reason is not None:
                reasons.append(reason)
            news = trigger.learn(seen)
            if news:
                learned.update(news)
        if reasons:
            due.append(Due(plan, tuple(reasons)))
    return Decision(tuple(due), {**tick.memory, **learned} if learned else tick.memory)


def horizon(policy: Policy, now: Moment, stretch: int) -> Horizon:
    """Until when `decide` has nothing to say at a batch's end, while nothing comes from outside."""
    triggers = (trigger for plan in policy.plans for trigger in plan.when)
    return nearest(trigger.horizon(now, stretch) for trigger in triggers)


def saves_periodically(policy: Policy) -> bool:
    """Whether the policy saves during training, and not only at its end or on request."""
    triggers = [trigger for plan in policy.plans for trigger in plan.when]
    with_epochs = any(
        "epoch_end" in trigger.events() and "step" not in trigger.events() for trigger in triggers
    )
    return with_epochs or horizon(policy, Moment(), 1) != NEVER
