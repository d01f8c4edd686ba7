"""The words of messages and pages are those of the project: plain, one word for one meaning.

`python tests/test_prose.py FILE...` prints what it finds in other files.
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
)
POLICIES = sorted((ROOT / "configs").glob("*.yaml"))
# Python whose docstrings, comments and messages are checked; globs from the repository's root.
# To check the whole package, this becomes ("docs/*.py", "keras_savekit/**/*.py").
CODE = ("docs/*.py", "keras_savekit/**/*.py")

# A pattern, and what to write in its place.
BANNED = {
    r"told": "reported; warned; logged once",
    r"(put|puts|putting) (it |them )?back": "restore",
    r"(bring|brings|brought|bringing|come|comes|came|coming) back": "restore; is restored",
    r"(?<!one )(?<!a )pass(es|ed|ing)? over": "skip",
    r"set(s|ting)? (it |them )?aside": "quarantine; move to `quarantine/`",
    r"(ask|asks|asked|asking) for": "request; requested",
    r"the (one|ones) before( it)?": "the previous checkpoint; fall back",
    r"anew": "starts over; starts from scratch; again",
    r"(go|goes|went|gone|going) on": "continue; resume",
    r"(stand|stands|stood|standing)( (for|by))?": "is; contains; passes",
    r"(lie|lies|lain|lying)": "is; is in",
    r"whatever": "name the thing",
    r"of which|so that what|so that whatever": "name the thing",
    r"nobody": "name who does not",
    r"never part": "atomic",
    r"how exactly": "whether the resume is exact",
    r"heed(s|ed)?": "respect; follow",
    r"foretell(s)?|foretold": "forecast",
    r"accus(e|es|ed|ing)": "report a finding",
}
_PATTERN = re.compile(
    "|".join(rf"(?P<p{number}>\b(?:{banned})\b)" for number, banned in enumerate(BANNED)),
    re.IGNORECASE,
)
_ADVICE = list(BANNED.values())


def markdown(text: str) -> Iterator[tuple[int, str]]:
    """The lines that a reader sees as prose, numbered: no code, no addresses."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield number, re.sub(r"`[^`]*`|\]\([^)]*\)", "` `", line)


def comments_of_yaml(text: str) -> Iterator[tuple[int, str]]:
    """What follows a `#`, with its line."""
    for number, line in enumerate(text.splitlines(), 1):
        found = re.search(r"(?:^|\s)#(.*)", line)
        if found:
            yield number, found[1]


def words_of_python(text: str) -> Iterator[tuple[int, str]]:
    """Comments and strings, docstrings and messages among them, line by line."""
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1)}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in kinds:
            for number, line in enumerate(token.string.splitlines(), token.start[0]):
                yield number, re.sub(r"`[^`]*`|\{[^{}]*\}", "` `", line)


READERS = {".md": markdown, ".yaml": comments_of_yaml, ".py": words_of_python}


def found_in(lines: Iterable[tuple[int, str]]) -> Iterator[str]:
    """Each banned phrase, also one that a line break divides, with what to write instead."""
    numbered = list(lines)
    text, at = "", []
    for number, line in numbered:
        words = line.strip().lstrip("#").strip()
        at += [number] * (len(words) + 1)
        text += words + " "
    for match in _PATTERN.finditer(text):
        advice = _ADVICE[int((match.lastgroup or "p0")[1:])]
        yield f'line {at[match.start()]}: "{match[0]}": write {advice}'


def wrong_words(path: Path) -> list[str]:
    """What a file says in words that the project does not use."""
    return list(found_in(READERS[path.suffix](path.read_text(encoding="utf-8"))))


FILES = [
    *(page for page in PAGES if page.exists()),
    *POLICIES,
    *sorted({path for pattern in CODE for path in ROOT.glob(pattern)}),
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_uses_the_words_of_the_project(path):
    assert wrong_words(path) == []


def test_a_phrase_is_found_in_prose_and_over_a_line_break():
    assert list(found_in(markdown("It goes\non where it was."))) == [
        'line 1: "goes on": write continue; resume'
    ]
    assert list(found_in(comments_of_yaml("a: told  # is told once"))) == [
        'line 1: "told": write reported; warned; logged once'
    ]
    source = 'def told():\n    """Is\n    set aside."""\n    return f"{told} anew"  # by nobody\n'
    assert [each.split('"')[1] for each in found_in(words_of_python(source))] == [
        "set aside",
        "anew",
        "nobody",
    ]


def test_code_and_addresses_are_no_prose():
    text = "`passed_over` and [a](set aside)\n```\nanew\n```\nA standard layer."
    assert list(found_in(markdown(text))) == []
    assert list(found_in(words_of_python("told = lies(anew)"))) == []


def test_every_pattern_has_advice():
    assert all(advice for advice in BANNED.values())


if __name__ == "__main__":
    for name in sys.argv[1:]:
        for problem in wrong_words(Path(name)):
            sys.stdout.write(f"{name}: {problem}\n")
