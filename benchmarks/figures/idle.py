"""What the hooks cost when nothing is due."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workloads import Scale, median, percentile, standard, train

import keras_savekit as sk
from figures import Found, Row, table, values

TITLE = "Steps between saves"
ABOUT = (
    "Both hooks of a batch together, of a small model, while no plan is due. The first batch, in"
    " which everything is made ready, is told by itself."
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
    return {"first": found["hooks"][0], "hooks": found["hooks"][1:]}


def rows(found: Found) -> list[Row]:
    """By the 99th percentile: above it is what the system does to any code."""
    made = []
    for side, (_, limit) in COUNTS.items():
        hooks = values(found, side, "hooks")
        worst = percentile(hooks, 0.99)
        made.append(
            Row(
                f"hooks when nothing is due, {side}",
                f"at most {limit * 1e6:.0f} µs",
                f"{worst * 1e6:.1f} µs at the 99th percentile, {median(hooks) * 1e6:.1f} µs in"
                " the median",
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
                str(len(values(found, side, "hooks"))),
                *(
                    f"{each * 1e6:.1f} µs"
                    for each in (
                        median(values(found, side, "hooks")),
                        percentile(values(found, side, "hooks"), 0.99),
                        max(values(found, side, "hooks")),
                    )
                ),
                f"{median(values(found, side, 'first')) * 1000:.0f} ms",
            ]
            for side in COUNTS
        ],
    )
