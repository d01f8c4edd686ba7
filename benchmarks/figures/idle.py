"""What the hooks cost when nothing is due."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workloads import Scale, median, percentile, standard, train

import keras_savekit as sk
from figures import Found, Row, table, values

TITLE = "Steps between saves"
ABOUT = (
    "Both hooks of a batch together, for a small model, while no plan is due. The first batch"
    " prepares everything and has its own column."
)
COUNTS = {"1 plan": (1, 20e-6), "100 plans": (100, 200e-6)}


def sides(scale: Scale) -> list[str]:
    """Numbers of plans."""
    return list(COUNTS)


def measure(side: str, place: Path, scale: Scale) -> dict[str, Any]:
    """Train with so many plans."""
    often = 10**6
    plans = [
        {"name": f"p{number}", "when": f"every {often + number} steps", "keep": "last 2"}
        for number in range(COUNTS[side][0])
    ]
    kit = sk.SaveKit({"resume": "never", "plans": plans}, directory=place / "run")
    model = standard(Scale(small=True))
    found = train(model, kit, every=scale(1500, 20), saves=0, batch_size=4)
    first, *hooks = found["hooks"]
    return {
        "first": first,
        "batches": len(hooks),
        "median": median(hooks),
        "p99": percentile(hooks, 0.99),
        "maximum": max(hooks),
    }


def rows(found: Found) -> list[Row]:
    """By the 99th percentile: above it is what the system does to any code."""
    made = []
    for side, (_, limit) in COUNTS.items():
        worst, middle = (median(values(found, side, what)) for what in ("p99", "median"))
        made.append(
            Row(
                f"hooks when nothing is due, {side}",
                f"at most {limit * 1e6:.0f} µs",
                f"{worst * 1e6:.1f} µs at the 99th percentile, {middle * 1e6:.1f} µs in the median",
                worst <= limit,
            )
        )
    return made


def told(found: Found) -> list[str]:
    """Every number of plans."""
    return table(
        ["", "batches", "median", "p99", "maximum", "the first batch"],
        [
            [
                side,
                f"{median(values(found, side, 'batches')):.0f}",
                *(
                    f"{median(values(found, side, what)) * 1e6:.1f} µs"
                    for what in ("median", "p99", "maximum")
                ),
                f"{median(values(found, side, 'first')) * 1000:.0f} ms",
            ]
            for side in COUNTS
        ],
    )
