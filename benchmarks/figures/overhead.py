"""How much longer training takes beside somebody who saves, and what else that costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sides import FLOORS, PEERS, run
from workloads import Scale, median

from figures import Found, Row, table, there, values

TITLE = "Overhead, time to durable, memory"
ABOUT = (
    "155 steps on both cores, a save every 12, from the first batch's begin to the last one's end;"
    " in turns, each in a process of its own. The floors are threads that do nothing but write as"
    " many bytes from memory, sync and rename them. Memory is the peak of resident memory in the"
    " worst run, less that of the worst run without saving, as a multiple of the state: the"
    " memory that TensorFlow keeps differs by an eighth of the state from run to run. Processor"
    " seconds are those of the whole process and its children, less those without saving, a save."
)
NOTHING = "nothing"
USUAL, LOW = "SaveKit", "SaveKit, memory: low"
BUFFERED, DIRECT = FLOORS


def REPEATS(side: str) -> int:  # noqa: N802 - a figure of the module
    """Once for peers, whose overhead is no close call."""
    return 1 if side in PEERS else 5


def sides(scale: Scale) -> list[str]:
    """In the order of a turn."""
    return [NOTHING, USUAL, LOW, *FLOORS, *PEERS]


def measure(side: str, place: Path, scale: Scale) -> dict[str, Any]:
    """Train beside one of them."""
    return run(side, place / "run", scale, every=scale(12, 2), saves=scale(12, 2))


def _overhead(found: Found, side: str) -> float:
    seconds, without = (median(values(found, each, "seconds")) for each in (side, NOTHING))
    return seconds / without - 1


def _memory(found: Found, side: str) -> float:
    grown = max(values(found, side, "peak")) - max(values(found, NOTHING, "peak"))
    return grown / found[side][0]["state"]


def _per_save(found: Found, side: str) -> float:
    spent = median(values(found, side, "computed")) - median(values(found, NOTHING, "computed"))
    return spent / found[side][0]["saves"]


def _durable(found: Found, side: str) -> float:
    return median(values(found, side, "durable"))


def rows(found: Found) -> list[Row]:
    """Overhead, time to durable, memory."""
    ours, buffered = (_overhead(found, side) for side in (USUAL, BUFFERED))
    durable, slow, quick = (_durable(found, side) for side in (USUAL, BUFFERED, DIRECT))
    made = [
        Row(
            "overhead of a save every 12 steps, durable, `verify: bytes`",
            "at most 8 %",
            f"{ours:.1%}",
            ours <= 0.08,
        ),
        Row(
            "overhead against a plain buffered writing thread",
            "at most half",
            f"{ours:.1%} against {buffered:.1%}",
            ours <= buffered / 2,
        ),
        Row(
            "time from hook to durable against the buffered thread",
            "at most half",
            f"{durable / slow:.2f} ({durable:.2f} s against {slow:.2f} s)",
            durable <= slow / 2,
        ),
        Row(
            "time from hook to durable against the `O_DIRECT` thread",
            "at most twice",
            f"{durable / quick:.2f} ({durable:.2f} s against {quick:.2f} s)",
            durable <= 2 * quick,
        ),
    ]
    for side in (USUAL, LOW):
        grown = _memory(found, side)
        made.append(
            Row(
                f"extra memory at the peak, `memory: {'low' if side == LOW else 'kept'}`",
                "at most 1.1 times the state",
                f"{grown:.2f} times",
                grown <= 1.1,
            )
        )
    return made


def told(found: Found) -> list[str]:
    """Every side."""
    lines = []
    for side in there(found):
        seconds = values(found, side, "seconds")
        durable, lag = values(found, side, "durable"), values(found, side, "lag")
        extra = side != NOTHING
        lines.append(
            [
                f"`{side}`" if extra else side,
                ", ".join(f"{each:.1f}" for each in seconds),
                f"{_overhead(found, side):.1%}" if extra else "",
                f"{_per_save(found, side):.2f} s" if extra else "",
                f"{median(durable):.2f} s" if durable else "",
                f"{median(lag):.2f} s" if lag else "",
                f"{_memory(found, side):.2f}" if extra else "",
            ]
        )
    header = [
        "saves beside it",
        "seconds",
        "overhead",
        "processor, a save",
        "to durable",
        "lag to verified",
        "memory",
    ]
    return table(header, lines)


def plot(found: Found, path: Path) -> None:
    """The overhead of every side."""
    import plots

    named = [side for side in there(found) if side != NOTHING]
    shares = [_overhead(found, side) * 100 for side in named]
    plots.bars(path, named, shares, "more time than without saving, %")
