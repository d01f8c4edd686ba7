"""Small plots for the page. Nothing else here needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams.update({"font.size": 8, "svg.hashsalt": "savekit", "svg.fonttype": "none"})

from matplotlib import pyplot  # noqa: E402 - after it was told where to draw


def bars(
    path: Path,
    names: Sequence[str],
    heights: Sequence[float],
    axis: str,
    *,
    logarithmic: bool = False,
) -> None:
    """A bar for each name, ours in another colour."""
    figure, axes = pyplot.subplots(figsize=(6, 0.28 * len(names) + 0.6))
    colours = ["#d1495b" if name.startswith("SaveKit") else "#8d99ae" for name in names]
    drawn = axes.barh(names, heights, color=colours)
    axes.bar_label(drawn, fmt="%.3g", padding=2)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    if logarithmic:
        axes.set_xscale("log")
    axes.set_xlabel(axis)
    _write(path, figure, axes)


def line(path: Path, x: Sequence[float], y: Sequence[float], along: str, up: str) -> None:
    """A line over a logarithmic axis."""
    figure, axes = pyplot.subplots(figsize=(6, 2.2))
    axes.plot(x, y, "o-", color="#d1495b")
    axes.set_xscale("log")
    axes.set_ylim(0, max(y) * 1.5)
    axes.set_xlabel(along)
    axes.set_ylabel(up)
    _write(path, figure, axes)


def _write(path: Path, figure: Any, axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
