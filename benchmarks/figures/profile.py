"""Where each millisecond and each byte of one save goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from counting import Counts, counted
from sides import kit
from workloads import Scale, median, standard, train

import keras_savekit.fit.observer
import keras_savekit.save.pipeline
import keras_savekit.verify.loader.client
from figures import Found, Row, mb, table
from keras_savekit.fit import callback_state
from keras_savekit.fit.training_state import TrainingState
from keras_savekit.formats import checkpoint
from keras_savekit.formats.checkpoint import Templates
from keras_savekit.model.capture import Capture
from keras_savekit.save import preflight
from keras_savekit.save.host_copy import HostBuffer
from keras_savekit.save.retention import RetentionApplier
from keras_savekit.store.run_writer import RunWriter

TITLE = "Profile of a save"
ABOUT = (
    "The standard model, beside a training: means over all saves except the first, which lays out"
    " the files and fetches memory. An indented line is a part of the line above it."
)
TRAINING = "training thread"
FUNCTIONS = {
    "decide": (keras_savekit.fit.observer, "decide"),
    "remember": (callback_state, "collect"),
    "state": (TrainingState, "values"),
    "capture": (Capture, "__call__"),
    "hand over": (keras_savekit.save.pipeline.Pipeline, "save"),
    "stage": (HostBuffer, "copy_out"),
    "finite": (preflight, "find_not_finite"),
    "room": (RetentionApplier, "make_room"),
    "layouts": (Templates, "layouts"),
    "form": (Templates, "template"),
    "write": (checkpoint, "write"),
    "publish": (RunWriter, "publish"),
    "verify": (keras_savekit.verify.loader.client.LoaderClient, "verify_files"),
    "record": (RunWriter, "record"),
    "settle": (RetentionApplier, "apply"),
}


def sides(scale: Scale) -> list[str]:
    """Both ways of memory."""
    return ["memory: kept", "memory: low"]


def measure(side: str, place: Path, scale: Scale) -> dict[str, Any]:
    """Save a few times, everything counted."""
    every, saves = scale(12, 3), scale(5, 3)
    callback = kit(place / "run", f"every {every} steps", side.split()[1])
    asked: list[float] = []
    with counted(FUNCTIONS) as counts:
        save = keras_savekit.fit.observer.Observer._save

        def first_left_out(*given: Any, **named: Any) -> None:
            if len(asked) == 1:
                callback.session._pipeline._verifier.join()
                counts.clear()
            asked.append(0.0)
            save(*given, **named)

        keras_savekit.fit.observer.Observer._save = first_left_out
        try:
            found = train(standard(scale), callback, every=every, saves=saves, batch_size=64)
        finally:
            keras_savekit.fit.observer.Observer._save = save
    return {"stall": median(found["stalls"]), "lines": _lines(counts, found["stalls"][1:])}


def _lines(counts: Counts, stalls: list[float]) -> list[list[Any]]:
    """Thread, what, seconds of a save, bytes of a save, calls of a save."""
    saves = max(1, counts.timed["publish"].calls)

    def took(*names: str) -> float:
        return sum(counts.timed[name].seconds for name in names) / saves

    def called(thread: str, *names: str) -> tuple[float, float, float]:
        sums = [counts.of_disk(name, thread) for name in names]
        fields = (
            [getattr(each, field) for each in sums] for field in ("seconds", "bytes", "calls")
        )
        seconds, size, calls = (sum(values) / saves for values in fields)
        return seconds, size, calls

    writing, written, writes = called("writer", "pwrite", "write")
    syncing, _, syncs = called("writer", "fsync")
    reading, read, reads = called("verifier", "preadv", "pread")
    laid_out, copied = took("layouts", "form"), counts.copied / saves
    rest = took("write") - laid_out - writing
    writer, verifier = "writing thread", "verifying thread"
    return [
        [TRAINING, "hooks of the batch", median(stalls), None, None],
        [TRAINING, "· references to all variables", took("capture"), None, None],
        [TRAINING, "· position, generators of random numbers", took("state"), None, None],
        [TRAINING, "· what other callbacks remember", took("remember"), None, None],
        [TRAINING, "· the policy decides", took("decide"), None, None],
        [TRAINING, "· handing over", took("hand over"), None, None],
        [
            writer,
            "copying out, and in front of the file",
            took("stage"),
            copied,
            None,
        ],
        [writer, "whether all numbers are finite", took("finite"), None, None],
        [writer, "whether there is room", took("room"), None, None],
        [writer, "files", took("write"), None, None],
        [writer, "· layout", laid_out, None, None],
        [writer, "· writing", writing, written, writes],
        [
            writer,
            "· digests, the manifest, the rest",
            rest,
            None,
            None,
        ],
        [writer, "publishing", took("publish"), None, None],
        [writer, "· syncing", syncing, None, syncs],
        [verifier, "verification", took("verify"), None, None],
        [verifier, "· reading", reading, read, reads],
        [verifier, "· digests, the rest", took("verify") - reading, None, None],
        [verifier, "recording, links, retention, removing", took("record", "settle"), None, None],
    ]


def rows(found: Found) -> list[Row]:
    """None: the profile explains the others."""
    return []


def told(found: Found) -> list[str]:
    """Both ways, one after the other."""
    made: list[str] = []
    for side, (measured, *_) in found.items():
        made += ["", f"`{side}`", ""]
        made += table(
            ["thread", "what", "ms", "bytes", "calls"],
            [
                [
                    thread,
                    what,
                    f"{seconds * 1000:.2f}",
                    mb(size) if size else "",
                    f"{calls:.0f}" if calls else "",
                ]
                for thread, what, seconds, size, calls in measured["lines"]
            ],
        )
    return made[1:]
