"""Draw docs/run.svg: a run that is killed and resumed, on a time line.

    python docs/make_pictures.py

Uses the standard library only. The picture has a background of its own, so that it
is readable on light and dark pages.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path

RUN = Path(__file__).resolve().parent / "run.svg"

WIDTH, HEIGHT = 920, 404
LEFT, SCALE = 172, 0.505  # where step 0 is, and pixels for a step
EVERY, KILLED, RESUMED, END = 200, 730, 600, 1000
TRAIN, WRITE, VERIFY, DISK = 74, 128, 172, 226  # the lanes, from top to bottom
PITCH, BAR = 27, 16  # of the checkpoints on the disk
WRITING, VERIFYING = 26, 30  # pixels that a write and a verification take
GAP = 44  # between the kill and the resume

INK, PALE, LINE = "#1f2933", "#5b6875", "#c8d0d8"
SAVE, GOOD, WAITING, BAD = "#1d6fb8", "#2b8a5b", "#bcdccb", "#c73a3a"


def first(step: float) -> float:
    """Return where a step of the first session is."""
    return LEFT + step * SCALE


def second(step: float) -> float:
    """Return where a step of the resumed session is."""
    return first(KILLED) + GAP + (step - RESUMED) * SCALE


def rect(x: float, y: float, width: float, height: float, fill: str, more: str = "") -> str:
    """Return a box with rounded corners."""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="3"'
        f' fill="{fill}" {more}/>'
    )


def line(x: float, y: float, to_x: float, to_y: float, colour: str, more: str = "") -> str:
    """Return a straight line."""
    ends = f'x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}"'
    return f'<line {ends} stroke="{colour}" {more}/>'


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    """Return a label; `kind` is a class of the style sheet."""
    about = f'x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}"'
    return f"<text {about}>{escape(words)}</text>"


def lane(y: float, name: str, about: str) -> Iterable[str]:
    """Yield the name of a lane and what happens in it."""
    yield text(16, y - 1, name, "name")
    yield text(16, y + 13, about, "small")


def training() -> Iterable[str]:
    """Yield the steps of both sessions, the kill and the resume."""
    for where, begin, end in ((first, 0, KILLED), (second, RESUMED, END)):
        yield line(where(begin), TRAIN, where(end), TRAIN, INK, 'stroke-width="3"')
        for step in range(begin, end + 1, 50):
            yield line(where(step), TRAIN - 4, where(step), TRAIN + 4, INK, 'stroke-width="1.2"')
        for step in range(begin, end + 1, EVERY):
            yield text(where(step), TRAIN - 12, f"{step}", "small", "middle")
    x = first(KILLED)
    for side in (1, -1):
        yield line(x - 7, TRAIN - 7 * side, x + 7, TRAIN + 7 * side, BAD, 'stroke-width="3.5"')
    yield text(x + 9, TRAIN - 32, f"SIGKILL at step {KILLED}", "bad", "end")
    x = second(RESUMED)
    yield text(x - 9, TRAIN - 32, f"resumes after step {RESUMED}", "good")
    yield text(x + 10, TRAIN + 19, f"{RESUMED + 1} to {KILLED}", "small")
    yield text(x + 10, TRAIN + 32, "run again", "small")


def saves() -> Iterable[tuple[int, float]]:
    """Yield the step of each save, and where it is due."""
    for step in range(EVERY, KILLED, EVERY):
        yield step, first(step)
    for step in range(RESUMED + EVERY, END + 1, EVERY):
        yield step, second(step)


def background() -> Iterable[str]:
    """Yield what the two threads do for every save."""
    for _, x in saves():
        yield f'<circle cx="{x:.1f}" cy="{TRAIN}" r="6.5" fill="{SAVE}" stroke="#fff"/>'
        yield line(x, TRAIN + 8, x, WRITE + 6, SAVE, 'stroke-dasharray="3 3"')
        yield rect(x, WRITE - 10, WRITING, BAR, SAVE)
        yield line(x + WRITING, WRITE + 6, x + WRITING, VERIFY - 10, GOOD, 'stroke-dasharray="3 3"')
        yield rect(x + WRITING, VERIFY - 10, VERIFYING, BAR, GOOD)


def disk() -> Iterable[str]:
    """Yield each checkpoint from its publication to its removal: `keep: last 3`."""
    found = list(saves())
    right = WIDTH - 22
    x, y = second(RESUMED), DISK + 2 * PITCH - 10
    yield line(x, y, x, TRAIN + 8, GOOD, 'stroke-width="2" marker-end="url(#up)"')
    for number, (step, x) in enumerate(found):
        y = DISK + number * PITCH - 10
        published, verified = x + WRITING, x + WRITING + VERIFYING
        removed = number + 3 < len(found)
        end = found[number + 3][1] + WRITING + VERIFYING if removed else right
        yield rect(published, y, verified - published, BAR, WAITING)
        yield rect(verified, y, end - verified, BAR, GOOD)
        yield text(published - 8, y + 12, f"{step:09d}-latest", "mono", "end")
        if removed:
            yield line(end, y - 2, end, y + BAR + 2, INK, 'stroke-width="2"')
            yield text(end + 7, y + 12, "removed", "small")


def legend() -> Iterable[str]:
    """Yield what the colours mean."""
    y, x = HEIGHT - 22, 16.0
    for fill, words in (
        (SAVE, "save is due: the hook takes references, a thread writes, syncs and renames"),
        (WAITING, "published, not verified yet"),
        (GOOD, "verification, then a verified checkpoint"),
    ):
        yield rect(x, y - 10, 16, 11, fill)
        yield text(x + 22, y, words, "small")
        x += 44 + 5.6 * len(words)


def picture() -> str:
    """Return the whole picture as SVG."""
    parts = [
        *lane(TRAIN, "Training thread", "optimizer steps"),
        *lane(WRITE, "Writing thread", ""),
        *lane(VERIFY, "Verifying thread", ""),
        *lane(DISK, "On the disk", "keep: last 3"),
        *background(),
        *training(),
        *disk(),
        *legend(),
    ]
    fonts = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    head = f"""\
<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">
<title>A run that is killed at step {KILLED} and resumes after step {RESUMED}</title>
<style>
text {{ font: 13px {fonts}; fill: {INK} }}
.name {{ font-weight: 600 }}
.small {{ font-size: 11px; fill: {PALE} }}
.bad {{ font-weight: 600; fill: {BAD} }}
.good {{ font-weight: 600; fill: {GOOD} }}
.mono {{ font: 11px ui-monospace, Menlo, 'Liberation Mono', monospace }}
</style>
<defs>
<marker id="up" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 0 8 4 0 8z" fill="{GOOD}"/>
</marker>
</defs>"""
    card = rect(0.5, 0.5, WIDTH - 1, HEIGHT - 1, "#ffffff", f'stroke="{LINE}"')
    return "\n".join([head, card, *parts, "</svg>", ""])


if __name__ == "__main__":
    RUN.write_text(picture(), encoding="utf-8")
