"""How long the hooks of a callback hold training up at a save."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sides import BESIDE, PEERS, WAITING, run
from workloads import Scale, median, percentile

from figures import Found, Row, ms, table, there, values

TITLE = "Stall of a save"
ABOUT = (
    "The stall is the time inside the callback's hooks at the batch whose end makes a save due."
    " Callbacks that write before they return save every 3 steps. Callbacks that write in the"
    " background save every 12 steps. A second SaveKit training saves every 4 steps, so that a"
    ' save, a verification and a removal are always in progress. "Step after" is the step that'
    ' follows a save, without the stall. "All" is the stall plus what the step after it takes'
    " more than the other steps: a callback that copies nothing in its hook may copy then."
)
BUSY = "SaveKit, without a pause"
TARGETS = {
    "ModelCheckpoint .h5": 1000,
    "OrbaxCheckpoint": 300,
    "tf.train.Checkpoint, async": 20,
}


def sides(scale: Scale) -> list[str]:
    """Ours twice, and every peer."""
    return ["SaveKit", BUSY, *PEERS]


def measure(side: str, place: Path, scale: Scale) -> dict[str, Any]:
    """Train with one of them."""
    saves = scale(50 if side == BUSY else 20, 2)
    every = 3 if side in WAITING else 12 if side in BESIDE or side == "SaveKit" else 4
    who = "SaveKit" if side == BUSY else side
    return run(who, place / "run", scale, every=scale(every, 2), saves=saves)


def rows(found: Found) -> list[Row]:
    """Against each peer, and ours against itself."""
    ours = median(values(found, "SaveKit", "stalls"))
    made = []
    for side, factor in TARGETS.items():
        theirs = median(values(found, side, "stalls"))
        made.append(
            Row(
                f"stall per save, median, against `{side}`",
                f"at most 1/{factor}",
                f"1/{theirs / ours:.0f} ({ms(ours)} against {ms(theirs)})",
                ours * factor <= theirs,
            )
            if side in there(found)
            else Row(f"stall against `{side}`", f"at most 1/{factor}", "not installed", None)
        )
    busy = values(found, BUSY, "stalls")
    middle = median(busy)
    for what, worst, factor in (
        ("p95", percentile(busy, 0.95), 3),
        ("maximum", max(busy), 8),
    ):
        made.append(
            Row(
                f"stall, {what} of {len(busy)} saves, with a save, a verification and a removal"
                " under way",
                f"at most {factor} times the median",
                f"{worst / middle:.1f} times ({ms(worst)} against {ms(middle)})",
                worst <= factor * middle,
            )
        )
    return made


def told(found: Found) -> list[str]:
    """Everybody's stalls, and the step after a save."""
    lines = []
    for side in there(found):
        stalls = values(found, side, "stalls")
        every = int(found[side][0]["every"])
        steps = [each["steps"] for each in found[side]]
        # A step is timed from begin to begin, so the stall is in the one that it ends.
        after = [each[at] for each in steps for at in range(every, len(each), every)]
        others = [each[at] for each in steps for at in range(len(each)) if (at + 1) % every > 1]
        lines.append(
            [
                f"`{side}`",
                str(len(stalls)),
                ms(median(stalls)),
                ms(percentile(stalls, 0.95)),
                ms(max(stalls)),
                ms(median(after)),
                ms(median(others)),
                ms(median(stalls) + median(after) - median(others)),
            ]
        )
    header = ["", "saves", "median", "p95", "maximum", "step after", "other steps", "all"]
    return table(header, lines)


def plot(found: Found, path: Path) -> None:
    """Medians and maxima, side by side."""
    import plots

    named = there(found)
    plots.bars(
        path,
        named,
        [median(values(found, side, "stalls")) * 1000 for side in named],
        "stall of a save, median, ms",
        logarithmic=True,
    )
