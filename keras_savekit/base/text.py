"""Quote values, count things and suggest names in messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


def show(value: object) -> str:
    """Return `value` as a message quotes it, in the words of YAML."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f'{text[:56]}..."'


def suggest(word: str, known: Iterable[str]) -> str:
    """Return `did you mean ...?`, or all allowed words if none is similar."""
    allowed = {word.lower(): word for word in known}
    near = get_close_matches(word.lower(), allowed, n=1, cutoff=0.6)
    return (
        f'did you mean "{allowed[near[0]]}"?' if near else f"allowed: {', '.join(allowed.values())}"
    )


def plural(count: float, thing: str) -> str:
    """Return a count with its noun, such as `3 steps` or `1 step`."""
    return f"{number_text(count)} {thing}{'' if count == 1 else 's'}"


def number_text(value: float) -> str:
    """Return the shortest text that reads back as `value`; whole numbers have no point."""
    return repr(value).removesuffix(".0")
