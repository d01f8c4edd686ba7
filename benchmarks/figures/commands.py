"""What the command line takes: to start, to list, to verify."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from workloads import Scale, forget, median

from figures import Found, Row, table, values
from keras_savekit.store.manifest import MANIFEST, Verification
from keras_savekit.store.manifest_json import read_manifest, to_json

TITLE = "Commands"
ABOUT = (
    "Each command runs in a process, timed from start to exit, in turns. The listed run has"
    " checkpoints of 56 variables. The verified checkpoints are copies of one of 403 MB, 1.6 GB in"
    " total, not in the page cache. For comparison, a Python process reads the same files 4 MB at"
    " a time and computes their xxh3_128."
)
REPEATS = 3
PASS, LIST, VERIFY, PLAIN = (
    "python -c pass",
    "savekit list",
    "savekit verify --depth bytes",
    "plain read and xxh3_128",
)
STARTS = (
    "list",
    "verify",
    "resume-plan",
    "check",
    "explain",
    "schema",
    "from-keras",
    "pin",
    "convert",
)
READ = """
import sys, xxhash
piece = bytearray(4 * 2**20)
for path in sys.argv[1:]:
    digest = xxhash.xxh3_128()
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(piece):
            digest.update(memoryview(piece)[:count])
    digest.hexdigest()
"""


def sides(scale: Scale) -> list[str]:
    """Every command."""
    starts = STARTS[:2] if scale.small else STARTS
    return [PASS, *(f"savekit {each} --help" for each in starts), LIST, VERIFY, PLAIN]


def prepare(place: Path, scale: Scale) -> None:
    """A run with very many small checkpoints, and one with a few large ones."""
    from sides import kit
    from workloads import batches, standard

    for name, width in (("many", 4), ("large", scale(2048, 16))):
        model = standard(scale, width)
        callback = kit(place / name, "every 2 steps", keep="all")
        given = {"steps_per_epoch": 3, "verbose": 0, "shuffle": False}
        model.fit(batches(model, 4), callbacks=[callback], **given)
    _copies(place / "many", scale(10_000, 50), link=True)
    _copies(place / "large", scale(4, 2), link=False)


def _copies(run: Path, count: int, *, link: bool) -> None:
    """Have a run hold so many checkpoints, copies of its first."""
    first = min((run / "checkpoints").iterdir())
    manifest = read_manifest(first)
    verified = to_json(Verification("bytes", manifest.created))
    have = sum(1 for _ in (run / "checkpoints").iterdir())
    for number in range(count - have):
        step = 1000 + number
        target = run / "checkpoints" / f"{step:09}-p"
        target.mkdir()
        for entry in manifest.files:
            if link:
                os.link(first / entry.name, target / entry.name)
            else:
                subprocess.run(["cp", first / entry.name, target / entry.name], check=True)
        moved = replace(manifest, moment=replace(manifest.moment, step=step))
        (target / MANIFEST).write_bytes(to_json(moved))
        (target / "verification.json").write_bytes(verified)


def measure(side: str, place: Path, scale: Scale) -> dict[str, Any]:
    """One process."""
    large = sorted((place / "large").glob("checkpoints/*/*.h5"))
    savekit = [sys.executable, "-m", "keras_savekit"]
    if side == PASS:
        command = [sys.executable, "-c", "pass"]
    elif side == LIST:
        command = [*savekit, "list", str(place / "many")]
    elif side == VERIFY:
        command = [*savekit, "verify", str(place / "large"), "--depth", "bytes"]
    elif side == PLAIN:
        command = [sys.executable, "-c", READ, *map(str, large)]
    else:
        command = [*savekit, *side.split()[1:]]
    seconds = []
    for _ in range(1 if side in (LIST, VERIFY, PLAIN) else scale(5, 1)):
        if side in (VERIFY, PLAIN):
            forget(large)
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - began)
    size = sum(each.stat().st_size for each in large)
    return {"seconds": seconds, "bytes": size, "checkpoints": scale(10_000, 50)}


def rows(found: Found) -> list[Row]:
    """Start, list, verify."""
    took = {side: median(values(found, side, "seconds")) for side in found}
    starts = {side: took[side] - took[PASS] for side in took if side.endswith("--help")}
    slowest = max(starts, key=lambda side: starts[side])
    count = found[LIST][0]["checkpoints"]
    share = took[PLAIN] / took[VERIFY]
    size = found[VERIFY][0]["bytes"]
    return [
        Row(
            f"`savekit list` of {count:,} checkpoints",
            "under 1 s",
            f"{took[LIST]:.2f} s",
            took[LIST] < 1,
        ),
        Row(
            "start of any `savekit` command, beyond `python -c pass`",
            "under 0.2 s",
            f"{starts[slowest]:.2f} s (`{slowest}`, the slowest of {len(starts)})",
            starts[slowest] < 0.2,
        ),
        Row(
            "`savekit verify --depth bytes` against plain read plus xxh3",
            "at least 80 %",
            f"{share:.0%} ({size / took[VERIFY] / 1e6:.0f} against"
            f" {size / took[PLAIN] / 1e6:.0f} MB/s)",
            share >= 0.8,
        ),
    ]


def told(found: Found) -> list[str]:
    """Every process."""
    return table(
        ["", "median", "all"],
        [
            [
                f"`{side}`",
                f"{median(values(found, side, 'seconds')):.3f} s",
                ", ".join(f"{each:.3f}" for each in values(found, side, "seconds")),
            ]
            for side in found
        ],
    )
