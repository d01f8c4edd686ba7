"""YAML text to nodes, and nodes to plain data with the place of everything.

Only this module knows the YAML library's readers. It knows nothing of what a
policy says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from keras_savekit.base.text import show
from keras_savekit.errors import PolicyError, Problem
from keras_savekit.policy.environment import MAX_DEPTH, expand
from keras_savekit.policy.fields import UNKNOWN_KEY, join

# The included file it is in, "" for the policy's own; line and column from 1.
Place = tuple[str, int, int]

MAX_VALUES = 20_000
MAX_NODES = 2 * MAX_VALUES  # keys are nodes too
LONGEST_NUMBER = 100

_OCTAL = re.compile(r"[-+]?0[0-7_]+")
_LAST_PART = re.compile(r"(\.?[^.\[\]]+|\[\d+\])$")
_TAG = "tag:yaml.org,2002:"
_REMEDIES = {
    "mapping values are not allowed here": "a colon is not allowed here:"
    " check the indentation of this line, or put the text in quotes",
    "could not find expected ':'": 'a key needs a colon and a space after it: "key: value"',
    "expected a single document in the stream": "a policy is one document: remove the --- line",
    "expected <block end>, but found '<block sequence start>'": "this dash is at"
    " another indentation than its list",
    "expected <block end>, but found '<block mapping start>'": "this line is indented further"
    " than the lines it belongs to",
}


def compose(text: str, source: str, included: bool = False) -> yaml.Node | None:
    """The root node of a text, None if it says nothing.

    Raises PolicyError if it is not YAML.
    """
    with _translated(source, text):
        loader = _Loader(text)
        loader.name = source if included else ""  # what every mark in it will carry
        return loader.get_single_node()


def refused(source: str, message: str) -> PolicyError:
    """The error that the whole text has one problem."""
    return PolicyError(source, (Problem("", message),))


class _Loader(yaml.SafeLoader):
    """Composes nodes, and refuses text deeper or longer than any policy."""

    depth = 0
    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        self.nodes += 1
        if self.depth > MAX_DEPTH or self.nodes > MAX_NODES:
            deep, long = f"nested deeper than {MAX_DEPTH} levels", f"more than {MAX_NODES} values"
            raise yaml.MarkedYAMLError(
                problem=deep if self.depth > MAX_DEPTH else long,
                problem_mark=self.peek_event().start_mark,  # type: ignore[no-untyped-call]
            )
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


@dataclass
class Reading:
    """One pass over the nodes: plain data, and the place of everything."""

    environ: Mapping[str, str]
    problems: list[Problem] = field(default_factory=list)
    keys: dict[str, Place] = field(default_factory=dict)
    values: dict[str, Place] = field(default_factory=dict)
    count: int = 0
    around: list[int] = field(default_factory=list)

    def value(self, node: yaml.Node, path: str) -> Any:
        """The plain value of `node`; where it has none, a problem and a substitute."""
        self.values.setdefault(path, _place(node))
        self.count += 1
        if self.count == MAX_VALUES:
            self._tell("", node, f"has more than {MAX_VALUES} values, its aliases written out")
        if self.count >= MAX_VALUES:
            return None
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if id(node) in self.around:
            return self._tell(path, node, "contains itself, through an alias")
        if len(self.around) == MAX_DEPTH:
            return self._tell(path, node, f"nested deeper than {MAX_DEPTH} levels")
        if node.tag not in (_TAG + "map", _TAG + "seq"):
            self._tell(path, node, _tag_message(node.tag))
        self.around.append(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            return [self.value(item, f"{path}[{i}]") for i, item in enumerate(node.value)]
        finally:
            self.around.pop()

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                merged.append(value_node)
                continue
            key = self._key(key_node, path)
            if key is None:
                continue
            inner = join(path, key)
            if key in found:
                first = self.keys[inner][1]
                self._tell(inner, key_node, f"is here twice, first in line {first}; keep one")
                continue
            self.keys.setdefault(inner, _place(key_node))
            found[key] = self.value(value_node, inner)
        for mapping in merged:
            found = {**self._merged(mapping, path), **found}
        return found

    def _merged(self, node: yaml.Node, path: str) -> dict[str, Any]:
        """What `<<: *name` adds; keys of the mapping itself win, and keep their places."""
        value = self.value(node, path)
        if isinstance(value, dict):
            return value
        self._tell(path, node, f"<< takes an alias of a mapping, got {show(value)}")
        return {}

    def _key(self, node: yaml.Node, path: str) -> str | None:
        if not isinstance(node, yaml.ScalarNode):
            self._tell(path, node, "a key must be a word; put braces and brackets in quotes")
        elif node.tag != _TAG + "str":
            inner = join(path, node.value)
            meaning = f"; YAML takes a bare {node.value} for {_kind(node.tag)}, so put it in quotes"
            self._tell(inner, node, f"a key must be a word{meaning if node.value else ''}")
        else:
            return str(node.value)
        return None

    def _scalar(self, node: yaml.ScalarNode, path: str) -> Any:
        raw = node.value
        match node.tag.removeprefix(_TAG):
            case "null":
                return None
            case "bool":
                return self._bool(node, path)
            case "int" | "float" as kind:
                return self._number(node, kind, path)
            case "str":
                text, problems = expand(raw, self.environ)
                for message in problems:
                    self._tell(path, node, message)
                return text
            case "timestamp" | "merge" | "value":  # such as the plan name 2024-01-31
                return raw
        self._tell(path, node, _tag_message(node.tag))
        return raw

    def _bool(self, node: yaml.ScalarNode, path: str) -> Any:
        raw = node.value
        value = _PLAIN.bool_values.get(raw.lower())
        if raw.lower() in ("true", "false"):
            return value
        meaning = f"YAML takes a bare {raw} for {show(value)}"
        self._tell(path, node, f"{meaning}; write {show(value)}, or put {raw} in quotes")
        return raw

    def _number(self, node: yaml.ScalarNode, kind: str, path: str) -> Any:
        raw = node.value
        if len(raw) > LONGEST_NUMBER:  # base 60 of a million parts would be computed for minutes
            return raw
        try:
            value = getattr(_PLAIN, f"construct_yaml_{kind}")(node)
        except (
            ValueError,
            IndexError,
            OverflowError,
        ):  # `!!int word`, or more digits than Python reads
            return raw
        if _OCTAL.fullmatch(raw):
            decimal = int(raw.replace("_", ""), 10)
            self._tell(path, node, f"{raw} is read as {value} by YAML (octal); write {decimal}")
        elif ":" in raw:
            meaning = f"{raw} is read as {value} by YAML (base 60)"
            self._tell(path, node, f"{meaning}; write {value}, or put it in quotes")
        return value

    def _tell(self, path: str, node: yaml.Node, message: str) -> None:
        source, line, column = _place(node)
        self.problems.append(Problem(path, message, line, column, source))

    def covers(self, problem: Problem) -> bool:
        """Whether a problem of the text itself explains this one."""
        return any(
            not known.path
            or problem.path == known.path
            or problem.path.startswith((f"{known.path}.", f"{known.path}["))
            for known in self.problems
        )

    def placed(self, problem: Problem) -> Problem:
        """`problem` with its place: the key's if that is unknown, else the value's."""
        if problem.message.startswith(UNKNOWN_KEY) and problem.path in self.keys:
            source, line, column = self.keys[problem.path]
        else:
            path = problem.path
            while path not in self.values:
                path = _parent(path)
            source, line, column = self.values[path]
        return replace(problem, line=line, column=column, source=source)


_PLAIN = yaml.constructor.SafeConstructor()


def _place(node: yaml.Node) -> Place:
    mark = node.start_mark
    return (mark.name, mark.line + 1, mark.column + 1)


def _parent(path: str) -> str:
    shorter = _LAST_PART.sub("", path)
    return shorter if shorter != path else ""


def _kind(tag: str) -> str:
    names = {"bool": "true or false", "int": "a number", "float": "a number", "null": "nothing"}
    return names.get(tag.removeprefix(_TAG), "something else")


def _tag_message(tag: str) -> str:
    return f"the tag {tag.replace(_TAG, '!!')} is not used in a policy; remove it"


@contextmanager
def _translated(source: str, text: str) -> Iterator[None]:
    """What the YAML library raises, as a PolicyError."""
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        problem = Problem("", _yaml_message(error, text, line), line, column)
        raise PolicyError(source, (problem,)) from error
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, error.position - before.rfind("\n")
        message = f"the character {text[error.position]!r} is not allowed in YAML; remove it"
        raise PolicyError(source, (Problem("", message, line, column),)) from error
    except (ValueError, OverflowError) as error:  # `"\UFFFFFFFF"`
        message = f"is not YAML: {error}; look for a backslash in double quotes"
        raise refused(source, message) from error


def _yaml_message(error: yaml.MarkedYAMLError, text: str, line: int) -> str:
    lines = text.splitlines()
    at = lines[line - 1] if 0 < line <= len(lines) else ""
    if "\t" in at[: len(at) - len(at.lstrip())] or "'\\t'" in str(error.problem):
        return "a tab cannot indent YAML; use spaces"
    if "{" in at and "${" in at:
        return 'put "${NAME}" in quotes inside { } or [ ]'
    found = str(error.problem)
    context = f" ({error.context})" if error.context else ""
    if found.endswith("but got '['"):
        return f"is not YAML: {found}{context}; put a name that has [ ] in it in quotes here"
    remedy = _REMEDIES.get(found) or _REMEDIES.get(str(error.context))
    return remedy or f"is not YAML: {found}{context}"
