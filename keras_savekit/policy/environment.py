"""Environment variables in values: `${NAME}`, `${NAME:-default}`; `$${` means `${`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from keras_savekit.base.text import show
from keras_savekit.errors import Problem
from keras_savekit.policy.fields import join

MAX_DEPTH = 40

_VARIABLE = re.compile(r"\$(\$\{)|\$\{([^}]*)(\}?)")
_INSIDE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


def escape(text: str) -> str:
    """Text that `expand` gives back as `text`."""
    return text.replace("${", "$${")


def expand(text: str, environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """`text` with environment variables in place, and what is wrong with it.

    The default after `:-` is used where the variable is not set or empty.
    """
    problems: list[str] = []

    def value(match: re.Match[str]) -> str:
        escaped, inside, end = match.groups()
        if escaped:
            return "${"
        parts = _INSIDE.fullmatch(inside) if end else None
        if parts is None:
            problems.append(f"{show(match[0])} names no environment variable; write ${{NAME}}")
            return match[0]
        name, default = parts.groups()
        if default is not None:
            return environ.get(name) or str(default)
        if name not in environ:
            problems.append(
                f"the environment variable {name} is not set; set it, or write"
                f" ${{{name}:-a default}}"
            )
        return environ.get(name, match[0])

    return _VARIABLE.sub(value, text), problems


def expanded(
    value: object, path: str, environ: Mapping[str, str], problems: list[Problem], depth: int = 0
) -> object:
    """A copy of plain data with environment variables in place; other values as they are."""
    if isinstance(value, str):
        text, wrongs = expand(value, environ)
        problems += [Problem(path, message) for message in wrongs]
        return text
    if isinstance(value, Mapping | list | tuple) and depth == MAX_DEPTH:
        problems.append(Problem(path, f"nested deeper than {MAX_DEPTH} levels"))
        return None
    if isinstance(value, Mapping):
        problems += [
            Problem(path, f"a key must be text, got {show(key)}")
            for key in value
            if not isinstance(key, str)
        ]
        return {
            key: expanded(inner, join(path, key), environ, problems, depth + 1)
            for key, inner in value.items()
            if isinstance(key, str)
        }
    if isinstance(value, list | tuple):
        return [
            expanded(inner, f"{path}[{index}]", environ, problems, depth + 1)
            for index, inner in enumerate(value)
        ]
    return value
