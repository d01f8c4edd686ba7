"""A model whose variables are on a device: a second logical one of the processor, or a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf
from sides import run
from workloads import Scale, median, standard

from figures import Found, Row, mb, ms, table, there, values

TITLE = "Variables on a device"
ABOUT = (
    "The standard model on a second logical device of the processor, whose tensors are copied to"
    " the host in pieces, as a GPU's would be. That the way works is what this shows: how fast a"
    " GPU's memory is read is measured only where there is one."
)
HOST, LOGICAL, GPU = "host", "second logical device", "GPU"


def sides(scale: Scale) -> list[str]:
    """The processor twice, and a GPU."""
    return [HOST, LOGICAL, GPU]


def measure(side: str, place: Path, scale: Scale) -> dict[str, Any]:
    """Train with the variables there."""
    if side == GPU and not tf.config.list_physical_devices("GPU"):
        return {"skipped": "there is none here"}
    if side == LOGICAL:
        (processor,) = tf.config.list_physical_devices("CPU")
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(processor, two)
    device = {HOST: "CPU:0", LOGICAL: "CPU:1", GPU: "GPU:0"}[side]

    def made(scale: Scale) -> Any:
        model = standard(scale)
        model.optimizer.build(model.trainable_variables)
        return model

    with tf.device(device):
        return run("SaveKit", place / "run", scale, every=scale(6, 2), saves=scale(8, 2), made=made)


def rows(found: Found) -> list[Row]:
    """None: the table of targets has no row for it."""
    return []


def told(found: Found) -> list[str]:
    """Wherever variables were."""
    return table(
        ["variables on", "state", "stall, median", "to durable", "saves", "peak of memory"],
        [
            [
                side,
                mb(found[side][0]["state"]),
                ms(median(values(found, side, "stalls"))),
                f"{median(values(found, side, 'durable')):.2f} s",
                str(len(values(found, side, "durable"))),
                mb(median(values(found, side, "peak"))),
            ]
            for side in there(found)
        ],
    )
