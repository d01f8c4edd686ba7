"""What the stall grows with: the number of variables, not their size."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from sides import run
from workloads import Scale, median, percentile, resnet, standard

from figures import Found, Row, mb, ms, table, there, values

TITLE = "Stall against size"
ABOUT = (
    "The standard model with narrower and wider layers, always 56 variables, on batches of 8; and"
    " ResNet152 with Adam. Each size runs in its own process."
)
SIZES = {"10 MB": 10e6, "100 MB": 100e6, "400 MB": 403e6, "1.6 GB": 1.6e9, "4 GB": 4e9}
SAVES = {"1.6 GB": 10, "4 GB": 7}
RESNET = "ResNet152"


def sides(scale: Scale) -> list[str]:
    """Every size."""
    return [*SIZES, RESNET]


def measure(side: str, place: Path, scale: Scale) -> dict[str, Any]:
    """Train a model of this size."""
    given: dict[str, Any] = {"every": scale(4, 2), "saves": scale(SAVES.get(side, 20), 2)}
    if side == RESNET:
        return run("SaveKit", place / "run", scale, batch_size=2, made=resnet, **given)
    # Eight square kernels, three times with Adam's slots, four bytes a number.
    width = int(math.sqrt(scale(SIZES[side], SIZES[side] / 10000) / (8 * 3 * 4)))

    def made(scale: Scale) -> Any:
        return standard(scale, width)

    return run("SaveKit", place / "run", scale, batch_size=8, made=made, **given)


def rows(found: Found) -> list[Row]:
    """The largest against the standard model, and many variables."""
    large, usual = (median(values(found, side, "stalls")) for side in ("4 GB", "400 MB"))
    many = median(values(found, RESNET, "stalls"))
    count = found[RESNET][0]["variables"]
    return [
        Row(
            "stall of 4 GB in the same variables",
            "at most 1.2 times 400 MB",
            f"{large / usual:.2f} times ({ms(large)} against {ms(usual)})",
            large <= 1.2 * usual,
        ),
        Row(f"stall of ResNet152 ({count:,} variables)", "at most 20 ms", ms(many), many <= 0.02),
    ]


def told(found: Found) -> list[str]:
    """Every size."""
    return table(
        ["", "variables", "state", "median", "p95", "maximum", "time to durable"],
        [
            [
                side,
                f"{found[side][0]['variables']:,}",
                mb(found[side][0]["state"]),
                ms(median(values(found, side, "stalls"))),
                ms(percentile(values(found, side, "stalls"), 0.95)),
                ms(max(values(found, side, "stalls"))),
                ms(median(values(found, side, "durable"))),
            ]
            for side in there(found)
        ],
    )


def plot(found: Found, path: Path) -> None:
    """The stall over the size."""
    import plots

    sizes = [side for side in there(found) if side in SIZES]
    plots.line(
        path,
        [found[side][0]["state"] / 1e6 for side in sizes],
        [median(values(found, side, "stalls")) * 1000 for side in sizes],
        "state in 56 variables, MB",
        "stall of a save, median, ms",
    )
