"""The work of one save, counted, against what it was when it was last recorded.

    python benchmarks/budget.py            # exits with 1 where a save does more than before
    python benchmarks/budget.py --record   # what it does now is the budget from now on

The third save of a training whose two older checkpoints stand: nothing is made for the
first time any more, and one is removed. `make test` compares it too.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from counting import Counts, Settle, counted
from sides import kit
from workloads import Scale, bytes_of, standard, train

BUDGET = Path(__file__).resolve().parent / "budget.json"
EVERY, WIDTH = 2, 256
Work = dict[str, int]


def work(directory: Path, memory: str = "kept") -> Work:
    """Calls by name, bytes written and read, bytes copied in memory, of the third save."""
    callback = kit(directory, f"every {EVERY} steps", memory)
    model = standard(Scale(small=True), WIDTH)
    found: Work = {}

    def look(step: int) -> None:
        if step == 3 * EVERY - 1:
            counts.clear()
        elif step == 3 * EVERY:
            found.update(_numbers(counts))

    with counted() as counts:
        train(
            model,
            callback,
            every=EVERY,
            saves=3,
            batch_size=4,
            before=[Settle(callback, look)],
        )
    return {"bytes of the state": bytes_of(model), **found}


def _numbers(counts: Counts) -> Work:
    names = sorted({name for _, name in counts.disk})
    written = sum(counts.of_disk(name).bytes for name in ("write", "pwrite"))
    read = sum(counts.of_disk(name).bytes for name in ("preadv", "pread"))
    calls = {f"calls of {name}": counts.of_disk(name).calls for name in names}
    return {
        "bytes copied": counts.copied,
        "bytes written": written,
        "bytes read": read,
        **calls,
    }


def over(now: Work, budget: Work) -> list[str]:
    """What is more than it may be; bytes by one in a hundred, as texts vary in length."""
    lines = []
    for name, count in now.items():
        allowed = budget.get(name, 0)
        slack = allowed // 100 if name.startswith("bytes") else 0
        if count > allowed + slack:
            lines.append(f"{name}: {count:,}, at most {allowed:,} before")
    return lines


def recorded() -> dict[str, Work]:
    """The budget, by the policy's `memory`."""
    found: dict[str, Work] = json.loads(BUDGET.read_text())
    return found


def main() -> int:
    """Compare, or record."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--record", action="store_true")
    record = arguments.parse_args().record
    now: dict[str, Any] = {}
    for memory in ("kept", "low"):
        with tempfile.TemporaryDirectory() as place:
            now[memory] = work(Path(place) / "run", memory)
    if record:
        BUDGET.write_text(json.dumps(now, indent=1) + "\n")
        return 0
    budget = recorded()
    wrong = [f"{memory}: {line}" for memory in now for line in over(now[memory], budget[memory])]
    print("\n".join(wrong) or "no save does more than before")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
