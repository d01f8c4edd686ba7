"""A model whose variables are on a device: a second logical one of the processor, or a GPU."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import tensorflow as tf
from sides import run
from workloads import Scale, median, standard

from figures import Found, Row, mb, ms, table, there, values

TITLE = "Variables on a device"
ABOUT = (
    "The standard model on a second logical device of the processor. Its tensors are copied to"
    " the host in pieces, as tensors of a GPU are; this shows that the path works. On a machine"
    " with a GPU, the same training runs there beside the peers, with a save every 300 steps of 64"
    " samples, because a step is short then. GPU memory is the peak that TensorFlow allocated"
    " minus that of the same training without saving, as a multiple of the state."
)
HOST, LOGICAL, GPU = "host", "second logical device", "GPU"
ON_GPU = f"{GPU}, "
BESIDE_GPU = (
    "nothing",
    "SaveKit",
    "SaveKit, memory: low",
    "ModelCheckpoint .h5",
    "OrbaxCheckpoint",
    "tf.train.Checkpoint, async",
)


def sides(scale: Scale) -> list[str]:
    """The processor twice, and a GPU beside whoever saves."""
    there_is_one = shutil.which("nvidia-smi") is not None
    return [HOST, LOGICAL, *((ON_GPU + side for side in BESIDE_GPU) if there_is_one else (GPU,))]


def measure(side: str, place: Path, scale: Scale) -> dict[str, Any]:
    """Train with the variables there."""
    who, device, every = "SaveKit", "CPU:0", scale(6, 2)
    if side.startswith(GPU):
        if not tf.config.list_physical_devices("GPU"):
            return {"skipped": "there is none here"}
        who, device, every = side.removeprefix(ON_GPU), "GPU:0", scale(300, 2)
    if side == LOGICAL:
        (processor,) = tf.config.list_physical_devices("CPU")
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(processor, two)
        device = "CPU:1"

    def made(scale: Scale) -> Any:
        model = standard(scale)
        model.optimizer.build(model.trainable_variables)
        return model

    with tf.device(device):
        found = run(who, place / "run", scale, every=every, saves=scale(4, 2), made=made)
    if side.startswith(ON_GPU):
        found["of device"] = tf.config.experimental.get_memory_info(device)["peak"]
    return found


def rows(found: Found) -> list[Row]:
    """None: the table of targets has no row for it."""
    return []


def told(found: Found) -> list[str]:
    """Wherever variables were."""
    lines = []
    idle = sum(values(found, ON_GPU + "nothing", "of device"))
    for side in there(found):
        one = found[side][0]
        every = int(one["every"])
        steps = one["steps"]
        durable = values(found, side, "durable")
        after = median(steps[at] for at in range(every, len(steps), every))
        others = median(steps[at] for at in range(len(steps)) if (at + 1) % every > 1)
        extra = f"{(one['of device'] - idle) / one['state']:.2f}" if "of device" in one else ""
        lines.append(
            [
                side,
                mb(one["state"]),
                ms(median(one["stalls"])) if one["stalls"] else "",
                ms(after),
                ms(others),
                f"{one['seconds']:.1f} s",
                f"{median(durable):.2f} s" if durable else "",
                mb(one["peak"]),
                extra,
            ]
        )
    header = ["variables on", "state", "stall, median", "step after", "other steps"]
    return table([*header, "in all", "to durable", "peak of memory", "of the GPU's"], lines)
