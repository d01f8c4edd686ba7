"""Where a training resumes, and whether that is exact. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from keras_savekit.base.moment import Moment
from keras_savekit.data.source import Source
from keras_savekit.resume.load import LoadedCheckpoint
from keras_savekit.resume.report import Level


@dataclass(frozen=True, slots=True)
class Position:
    """Where a training resumes.

    moment: the checkpoint's own, or the start of its epoch.
    level: the best that the data allow.
    reasons: why the level is not `exact`.
    """

    moment: Moment
    level: Level
    reasons: tuple[str, ...]


def find_position(loaded: LoadedCheckpoint, source: Source | None, length: int | None) -> Position:
    """Decide where to resume from the data and the length of an epoch.

    source: of the data that training continues with, if its order is known.
    length: batches in an epoch, if that is known.
    """
    saved = loaded.checkpoint.manifest.moment
    moment = saved
    level: Level = "exact"
    reasons = []
    if source is None:
        reasons.append(
            "the order of the data is not known; give fit and SaveKit(data=) the same "
            "keras_savekit.resumable() data"
        )
    elif loaded.state["data"] is None:
        reasons.append("the order of the data was not known when this was saved")
    elif data_difference(loaded, source):
        reasons.append("the order of the data is different")
    if reasons or not loaded.state["consistent"]:
        level = "position"
    if saved.batch and (reasons or length is None):
        moment = replace(saved, batch=0)
        if not reasons:
            level = "exact from the epoch's start"
            reasons.append(
                "how many batches an epoch has is not known yet; give resumable(steps_per_epoch=)"
            )
        reasons.append(f"epoch {saved.epoch + 1} starts again; {saved.batch} batches are repeated")
    if not loaded.state["consistent"]:
        reasons.append("an exception in the middle of a step may have left a part of it")
    return Position(moment, level, tuple(reasons))


def data_difference(loaded: LoadedCheckpoint, source: Source | None) -> str:
    """How the data differ from those of the checkpoint, if both are known; else empty."""
    before = loaded.state["data"]
    if source is None or before is None or before == source.identity:
        return ""
    now = source.identity
    words = [
        f"{key} was {before.get(key)}, is {now[key]}" for key in now if before.get(key) != now[key]
    ]
    return f"the data have changed: {', '.join(words)}"
