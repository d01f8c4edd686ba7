"""How much longer training takes beside somebody who saves, and what else that costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sides import FLOORS, PEERS, Floor, kit, logged, run
from turns import BATCH, Turns, more
from workloads import Scale, bytes_of, median, standard

from figures import Found, Row, table, there, values

TITLE = "Overhead, time to durable, memory"
ABOUT = (
    "Both cores train, and a save is due every 12 steps of 256 samples, about every two seconds."
    " A shorter interval gives more overhead. SaveKit, no saving and the floors take turns of six"
    " saves within one training, so that compared turns are seconds apart. A floor is a thread"
    " that only writes the same number of bytes from memory, syncs them and renames the file."
    " Peers and the memory figures come from trainings of 155 steps, each in its own process,"
    " where equal runs differ more. Memory is the peak resident memory of the worst run minus that"
    " of the worst run without saving, as a multiple of the state; the memory that TensorFlow"
    " keeps varies by an eighth of the state from run to run. Processor seconds are those of the"
    " process and its children minus those without saving, per save."
)
NOTHING = "nothing"
USUAL, LOW = "SaveKit", "SaveKit, memory: low"
BUFFERED, DIRECT = FLOORS
TAKING_TURNS = (NOTHING, USUAL, *FLOORS)
IN_TURNS = "SaveKit, nothing and two floors in turns"
SAVES = 6  # of a turn


def REPEATS(side: str) -> int:  # noqa: N802 - a figure of the module
    """Once for peers, whose overhead is no close call; turns are repeated within a training."""
    if side in PEERS:
        return 1
    return 2 if side == IN_TURNS else 3


def sides(scale: Scale) -> list[str]:
    """In the order of a turn."""
    return [IN_TURNS, NOTHING, USUAL, LOW, *PEERS]


def measure(side: str, place: Path, scale: Scale) -> dict[str, Any]:
    """Train beside one of them, or beside those that take turns."""
    if side == IN_TURNS:
        return _in_turns(place / "run", scale)
    every, saves = scale(12, 2), scale(12, 2)
    return run(side, place / "run", scale, every=every, saves=saves, batch_size=BATCH)


def _in_turns(place: Path, scale: Scale) -> dict[str, Any]:
    turns = Turns(TAKING_TURNS, rounds=scale(4, 1), saves=SAVES, every=scale(12, 2), before=2)
    model = standard(scale)
    model.optimizer.build(model.trainable_variables)
    ours = kit(place / "run", {"steps": [*turns.due_before, *turns.due(USUAL)]})
    floors = {
        name: Floor(place / f"floor {number}", turns.due(name), bytes_of(model), direct)
        for number, (name, direct) in enumerate(FLOORS.items())
    }
    found = turns.train(model, ours, list(floors.values()))
    for name, floor in floors.items():
        floor.finish()
        found[f"durable {name}"] = floor.durable
    log = logged(place / "run")
    return found | {f"durable {USUAL}": log["durable"], "lag": log["lag"]}


def longer(found: Found, side: str) -> float:
    """More time than without saving, as a share."""
    if side in TAKING_TURNS:
        return median(more(run, "seconds", side, NOTHING) for run in found[IN_TURNS])
    seconds, without = (median(values(found, each, "seconds")) for each in (side, NOTHING))
    return seconds / without - 1


def _seconds_a_save(found: Found, side: str) -> float:
    """Seconds that training takes longer for a save."""
    return longer(found, side) * median(values(found, IN_TURNS, f"seconds {NOTHING}")) / SAVES


def _memory(found: Found, side: str) -> float:
    grown = max(values(found, side, "peak")) - max(values(found, NOTHING, "peak"))
    return grown / found[side][0]["state"]


def _computed_a_save(found: Found, side: str) -> float:
    """Processor seconds."""
    if side in TAKING_TURNS:
        spent, without = (
            median(values(found, IN_TURNS, f"computed {who}")) for who in (side, NOTHING)
        )
        return (spent - without) / SAVES
    spent = median(values(found, side, "computed")) - median(values(found, NOTHING, "computed"))
    return spent / found[side][0]["saves"]


def _durable(found: Found, side: str) -> float:
    return median(values(found, IN_TURNS, f"durable {side}"))


def rows(found: Found) -> list[Row]:
    """Overhead, time to durable, memory."""
    ours, buffered = (longer(found, side) for side in (USUAL, BUFFERED))
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
    """Those that take turns, then those that have a process of their own."""
    return [*_told_in_turns(found), "", *_told_apart(found)]


def _told_in_turns(found: Found) -> list[str]:
    runs = found[IN_TURNS]
    lines = []
    for side in TAKING_TURNS:
        seconds = (", ".join(f"{each:.2f}" for each in run[f"seconds {side}"]) for run in runs)
        extra = side != NOTHING
        grown = ", ".join(f"{more(run, 'seconds', side, NOTHING):.1%}" for run in runs)
        lines.append(
            [
                f"`{side}`" if extra else side,
                "; ".join(seconds),
                f"{longer(found, side):.1%} ({grown})" if extra else "",
                f"{_seconds_a_save(found, side):.2f} s" if extra else "",
                f"{_computed_a_save(found, side):.2f} s" if extra else "",
                f"{_durable(found, side):.2f} s" if extra else "",
                f"{median(values(found, IN_TURNS, 'lag')):.2f} s" if side == USUAL else "",
            ]
        )
    header = [
        "saves in its turns",
        "seconds of each",
        "overhead",
        "more time, a save",
        "of a core, a save",
        "to durable",
        "lag to verified",
    ]
    return [f"`{IN_TURNS}`:", "", *table(header, lines)]


def _told_apart(found: Found) -> list[str]:
    lines = []
    for side in there(found):
        if side == IN_TURNS:
            continue
        extra = side not in (NOTHING, USUAL)
        lines.append(
            [
                side if side == NOTHING else f"`{side}`",
                ", ".join(f"{each:.1f}" for each in values(found, side, "seconds")),
                f"{longer(found, side):.1%}" if extra else "",
                f"{_computed_a_save(found, side):.2f} s" if extra else "",
                f"{_memory(found, side):.2f}" if side != NOTHING else "",
            ]
        )
    header = ["saves beside it", "seconds", "overhead", "of a core, a save", "memory"]
    return table(header, lines)


def plot(found: Found, path: Path) -> None:
    """The overhead of every side."""
    import plots

    named = [USUAL, *FLOORS, *(side for side in there(found) if side in (LOW, *PEERS))]
    shares = [longer(found, side) * 100 for side in named]
    plots.bars(path, named, shares, "more time than without saving, %")
