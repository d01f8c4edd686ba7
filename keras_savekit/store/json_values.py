"""Read our own JSON files into values; report the first problem with its place.

The files may be hostile: the messages do not repeat their content.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

T = TypeVar("T")


class MalformedError(ValueError):
    """The text is not JSON, or not JSON of the expected shape."""


@dataclass(frozen=True, slots=True)
class _Head:
    """The part of a file that is the same in every format version."""

    format: int


_HEAD = TypeAdapter(_Head)


def parse_json(text: bytes) -> object:
    """Parse JSON. Raise MalformedError if it is none."""
    try:
        return from_json(text)
    except ValueError as error:
        raise MalformedError(f"malformed: {error}") from error


def format_version(parsed: object) -> int:
    """The format version that a parsed file states. Raise MalformedError if there is none."""
    return validate(_HEAD, parsed).format


def validate(adapter: TypeAdapter[T], parsed: object) -> T:
    """Convert parsed JSON to a value. Raise MalformedError if it does not fit."""
    try:
        # Not `validate_json`: its errors contain a copy each of everything around them.
        return adapter.validate_python(parsed)
    except ValidationError as error:
        place, message = first_problem(error)
        raise MalformedError(f"malformed: {place or 'the file'}: {message}") from error


def first_problem(error: ValidationError) -> tuple[str, str]:
    """The place and the message of the first problem; the place is empty for the whole value."""
    first = error.errors(include_url=False, include_input=False)[0]
    return ".".join(str(part) for part in first["loc"]), first["msg"]
