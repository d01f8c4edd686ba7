"""Describe what differs between a checkpoint and a model. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keras_savekit.base.tensors import Variable

_NUMBERED = re.compile(r"(.*?)(?:_(\d+))?")


def compare_variables(saved: Sequence[Variable], live: Sequence[Variable]) -> list[str]:
    """Describe the variables that do not fit: another name, shape or dtype, extra or missing.

    Variables are compared by position. Names are compared for weights only, and without the
    numbers that Keras assigns in each process (`dense`, `dense_1`). The order of the numbers
    still counts: layers in another order differ. A model loaded from a file has shorter
    paths than one built in code; then only the last part of each path is compared.
    """
    named = zip(*_comparable(saved, live), saved, live, strict=False)
    found = [
        f"{_text(theirs)} in the checkpoint, {_text(ours)} in the model"
        for was, now, theirs, ours in named
        if (was, theirs.shape, theirs.dtype) != (now, ours.shape, ours.dtype)
    ]
    found += [f"{_text(extra)} only in the checkpoint" for extra in saved[len(live) :]]
    found += [f"{_text(missing)} only in the model" for missing in live[len(saved) :]]
    return found


def match_variables(saved: Sequence[Variable], live: Sequence[Variable]) -> list[int | None]:
    """Return for each live variable the position of the saved one that matches, or None.

    Variables of the same name, shape and dtype are alike; the numbers in names are ignored.
    If both sides have equally many alike variables, they match in order. If not, it is
    unknown which match, and none does.
    """
    alike: dict[Any, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for side, variables in enumerate((saved, live)):
        paths = _rootless(variable.name for variable in variables)
        for position, (variable, parts) in enumerate(zip(variables, paths, strict=True)):
            key = (tuple(_split(part)[0] for part in parts), variable.shape, variable.dtype)
            alike[key][side].append(position)
    found: list[int | None] = [None] * len(live)
    for theirs, ours in alike.values():
        if len(theirs) == len(ours):
            for position, match in zip(ours, theirs, strict=True):
                found[position] = match
    return found


def compare_optimizers(
    saved: Mapping[str, Any] | None, live: Mapping[str, Any] | None, rate: float | None
) -> dict[str, str]:
    """Describe the settings in which two serialized optimizers differ, by the name of each.

    If their classes differ, only `class_name` is compared.
    rate: the learning rate as saved. A callback may have changed it since the settings
        were read; a model that still has it does not differ.
    """
    if saved is None or live is None:
        return {} if saved is live else {"class_name": "one of the two is not compiled"}
    if saved["class_name"] != live["class_name"]:
        words = f"the optimizer was {saved['class_name']}, is {live['class_name']}"
        return {"class_name": words}
    was, now = _without_names(saved["config"]), _without_names(live["config"])
    return {
        key: f"the optimizer's {key} was {was.get(key)}, is {now.get(key)}"
        for key in sorted({*was, *now})
        if was.get(key) != now.get(key)
        and not (key == "learning_rate" and rate is not None and now.get(key) == rate)
    }


def _without_names(config: Any) -> Any:
    """Leave out the names of optimizers, which Keras numbers in each process."""
    if isinstance(config, Mapping):
        return {key: _without_names(value) for key, value in config.items() if key != "name"}
    return config


def format_list(differences: Sequence[str], shown: int = 5) -> str:
    """Format the first few, one on each line."""
    more = len(differences) - shown
    lines = [*differences[:shown], *([f"and {more} more"] if more > 0 else [])]
    return "".join(f"\n  {line}" for line in lines)


def _comparable(saved: Sequence[Variable], live: Sequence[Variable]) -> tuple[list[str], list[str]]:
    if any(variable.role != "weight" for variable in (*saved, *live)):
        return [""] * len(saved), [""] * len(live)
    was, now = (
        normalize_paths([variable.name for variable in variables]) for variables in (saved, live)
    )
    if any(one.count("/") != other.count("/") for one, other in zip(was, now, strict=False)):
        was, now = (
            [_split(variable.name.rpartition("/")[2])[0] for variable in variables]
            for variables in (saved, live)
        )
    return was, now


def normalize_paths(names: Iterable[str]) -> list[str]:
    """Return paths without their common root, whose numbers count from 0 in each place.

    >>> normalize_paths(["m_2/dense_4/kernel", "m_2/dense_3/kernel", "m_2/out/bias"])
    ['dense#1/kernel#0', 'dense#0/kernel#0', 'out#0/bias#0']
    """
    paths = _rootless(names)
    numbers: dict[tuple[tuple[str, ...], str], set[int]] = defaultdict(set)
    for path in paths:
        for depth, part in enumerate(path):
            base, number = _split(part)
            numbers[path[:depth], base].add(number)
    return ["/".join(_normalized_parts(path, numbers)) for path in paths]


def _rootless(names: Iterable[str]) -> list[tuple[str, ...]]:
    paths = [tuple(name.split("/")) for name in names]
    if paths and len({path[0] for path in paths}) == 1 and all(len(path) > 1 for path in paths):
        return [path[1:] for path in paths]
    return paths


def _normalized_parts(
    path: tuple[str, ...], numbers: Mapping[tuple[tuple[str, ...], str], set[int]]
) -> Iterable[str]:
    for depth, part in enumerate(path):
        base, number = _split(part)
        yield f"{base}#{sorted(numbers[path[:depth], base]).index(number)}"


def _split(part: str) -> tuple[str, int]:
    match = _NUMBERED.fullmatch(part)
    assert match is not None  # it matches everything
    return match[1], int(match[2] or 0)


def _text(variable: Variable) -> str:
    return f"{variable.name} {variable.dtype}{list(variable.shape)}"
