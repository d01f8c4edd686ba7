"""What a save writes where nine tenths of the model are frozen."""

from __future__ import annotations

import math
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from counting import Settle
from sides import kit, logged
from workloads import Scale, median, standard, train

from figures import Found, Row, mb, table, values
from keras_savekit.store import syscalls

TITLE = "Unchanged tensors"
ABOUT = (
    "30 layers of width 1792 with Adam, 29 of them frozen, so that nine tenths of the bytes are"
    " equal from save to save; with and without `reuse: true`. The training waits until each"
    " checkpoint is verified, because bytes of an unverified checkpoint are never shared."
)
OFF, ON, PRETENDED = "reuse: false", "reuse: true", "reuse: true, reflinks pretended"


def sides(scale: Scale) -> list[str]:
    """Without and with it; with it also where the call for a reflink is answered by a copy."""
    return [OFF, ON, PRETENDED]


def measure(side: str, place: Path, scale: Scale) -> dict[str, Any]:
    """Save a few times."""
    with _reflinking(place) as (where, how):
        model = standard(scale, scale(1792, 256), layers=30, frozen=29)
        callback = kit(where / "run", "every 2 steps", reuse=side != OFF)
        settle = Settle(callback, lambda step: None)
        with syscalls.watched(_pretended if side == PRETENDED else _called):
            train(model, callback, every=2, saves=3, batch_size=16, before=[settle])
        found = logged(where / "run")
        frozen = sum(math.prod(each.shape) for each in model.non_trainable_variables)
        return {
            "bytes": found["bytes"][1:],
            "shared": found["shared"][1:],
            "frozen": frozen * 4 / found["bytes"][0],
            "how": how,
        }


def _called(name: str, call: Any, *given: Any) -> Any:
    return call(*given)


def _pretended(name: str, call: Any, *given: Any) -> Any:
    """In place of a reflink: the range copied, which gives the file the same bytes."""
    if name != "clone":
        return call(*given)
    target, _, asked = given
    source, offset, size, _ = struct.unpack("qQQQ", asked)
    while size:
        copied = os.copy_file_range(source, target, size, offset, offset)
        offset, size = offset + copied, size - copied
    return None


@contextmanager
def _reflinking(place: Path) -> Iterator[tuple[Path, str]]:
    """A directory whose file system has reflinks, or `place` itself and why there is none."""
    if _shares(place):
        yield place, "here"
        return
    make = shutil.which("mkfs.btrfs") or shutil.which("mkfs.xfs")
    if make is None or os.geteuid() != 0:
        yield place, "this file system has no reflinks, and no other could be made"
        return
    image, mounted = place / "image", place / "mounted"
    with image.open("wb") as file:
        file.truncate(6 * 10**9)
    mounted.mkdir(exist_ok=True)
    try:
        subprocess.run([make, "-q", str(image)], check=True, capture_output=True)
        command = ["mount", "-o", "loop", str(image), str(mounted)]
        subprocess.run(command, check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        image.unlink()
        yield place, f"this file system has no reflinks; {make}: {error.stderr[-100:]!r}"
        return
    try:
        yield mounted, f"in an image, by {Path(make).name}"
    finally:
        subprocess.run(["umount", str(mounted)], check=False)
        image.unlink()


def _shares(place: Path) -> bool:
    paths = place / "reflink-a", place / "reflink-b"
    paths[0].write_bytes(bytes(4096))
    flags = os.O_RDWR | os.O_CREAT
    source, target = (os.open(path, flags) for path in paths)
    shares = False
    with suppress(OSError):
        syscalls.clone(source, target, 0, 4096)
        shares = True
    for descriptor, path in zip((source, target), paths, strict=True):
        os.close(descriptor)
        path.unlink()
    return shares


def rows(found: Found) -> list[Row]:
    """Bytes written, against those without it."""
    frozen = median(values(found, ON, "frozen"))
    made = []
    for side in (ON, PRETENDED):
        whole = median(values(found, side, "bytes"))
        written = whole - median(values(found, side, "shared"))
        real = side == PRETENDED or "no reflinks" not in found[side][0]["how"]
        told = f"{written / whole:.0%} ({mb(written)} of {mb(whole)})"
        made.append(
            Row(
                f"bytes written by a save, {frozen:.0%} of it frozen, `{side}`",
                "what has changed",
                told if real else f"{told}: {found[side][0]['how']}",
                written <= 1.2 * (1 - frozen) * whole if real else None,
            )
        )
    return made


def told(found: Found) -> list[str]:
    """All three."""
    return table(
        ["", "bytes of a checkpoint", "written", "shared", "reflinks"],
        [
            [
                side,
                mb(median(values(found, side, "bytes"))),
                mb(median(values(found, side, "bytes")) - median(values(found, side, "shared"))),
                mb(median(values(found, side, "shared"))),
                "pretended: the call copies the range" if side == PRETENDED else each["how"],
            ]
            for side, (each, *_) in found.items()
        ],
    )
