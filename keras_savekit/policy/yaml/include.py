"""`include: other.yaml`: one policy on top of others.

The including file's keys win over the included, and plans are merged by name:
a plan of a known name takes the keys it does not say itself from the plan it
completes, any other is added. Of several files, the later win.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

from keras_savekit.base.text import show
from keras_savekit.errors import PolicyError, Problem
from keras_savekit.policy.environment import expand
from keras_savekit.policy.yaml.nodes import compose

KEY = "include"
MAX_FILES = 50
MAX_CHARACTERS = 2**20  # of all of them

Pair = tuple[yaml.Node, yaml.Node]


class Including:
    """One pass over a policy's includes.

    read: a path to the file's text; raises PolicyError.
    problems: a list that receives what is wrong with an `include`.
    """

    def __init__(
        self,
        read: Callable[[str], str],
        environ: Mapping[str, str],
        problems: list[Problem],
    ) -> None:
        self._read = read
        self._environ = environ
        self._problems = problems
        self._files = 0
        self._room = MAX_CHARACTERS

    def merged(self, root: yaml.Node, source: str, around: tuple[str, ...] = ()) -> yaml.Node:
        """`root`, the policy in the file `source`, with what it includes beneath it."""
        if not isinstance(root, yaml.MappingNode) or _value(root, KEY) is None:
            return root
        around = (*around, os.path.realpath(source))
        included = [pair for pair in root.value if pair[0].value == KEY]
        own = _mapping(root, [pair for pair in root.value if pair[0].value != KEY])
        node = included[0][1]
        names = node.value if isinstance(node, yaml.SequenceNode) else [node]
        below: yaml.MappingNode | None = None
        for name in names:
            other = self._file(name, source, around)
            if other is not None:
                below = _over(other, below) if below is not None else other
        return _over(own, below) if below is not None else own

    def _file(
        self, name: yaml.Node, source: str, around: tuple[str, ...]
    ) -> yaml.MappingNode | None:
        if not isinstance(name, yaml.ScalarNode) or not name.value:
            self._tell(name, "must be a file's path, or a list of them")
            return None
        text, problems = expand(name.value, self._environ)
        for message in problems:
            self._tell(name, message)
        if problems:
            return None
        path = str(Path(source).parent / text)
        if os.path.realpath(path) in around:
            self._tell(name, f"{show(text)} includes itself, directly or through others")
            return None
        self._files += 1
        if self._files > MAX_FILES:
            self._tell(name, f"more than {MAX_FILES} files are included")
            return None
        try:
            content = self._read(path)
            self._room -= len(content)
            if self._room < 0:
                self._tell(name, f"more than {MAX_CHARACTERS} characters are included")
                return None
            root = compose(content, path, included=True)
        except PolicyError as error:
            for problem in error.problems:
                place = f"line {problem.line}, column {problem.column}: " if problem.line else ""
                self._tell(name, f"{show(text)} cannot be included: {place}{problem.message}")
            return None
        if not isinstance(root, yaml.MappingNode):
            self._tell(name, f"{show(text)} is no policy: it has no keys and values")
            return None
        below = self.merged(root, path, around)
        return below if isinstance(below, yaml.MappingNode) else None

    def _tell(self, node: yaml.Node, message: str) -> None:
        mark = node.start_mark
        self._problems.append(Problem(KEY, message, mark.line + 1, mark.column + 1, mark.name))


def _over(upper: yaml.MappingNode, lower: yaml.MappingNode) -> yaml.MappingNode:
    """The upper mapping's keys, and those of the lower that it lacks; plans by name."""
    pairs = _completed(upper, lower)
    above, below = _value(upper, "plans"), _value(lower, "plans")
    if isinstance(above, yaml.SequenceNode) and isinstance(below, yaml.SequenceNode):
        plans = _plans(above, below)
        pairs = [(key, plans if key.value == "plans" else value) for key, value in pairs]
    return _mapping(upper, pairs)


def _plans(upper: yaml.SequenceNode, lower: yaml.SequenceNode) -> yaml.SequenceNode:
    known = {_name(plan) for plan in lower.value} - {None}
    completing = {_name(plan): plan for plan in upper.value if _name(plan) in known}
    plans = [
        _mapping(completing[name], _completed(completing[name], plan))
        if (name := _name(plan)) in completing
        else plan
        for plan in lower.value
    ]
    # What only the upper has, and what a mistake there says twice.
    plans += [plan for plan in upper.value if completing.get(_name(plan)) is not plan]
    return yaml.SequenceNode(upper.tag, plans, upper.start_mark, upper.end_mark)


def _completed(upper: yaml.MappingNode, lower: yaml.MappingNode) -> list[Pair]:
    said = {key.value for key, _ in upper.value if isinstance(key, yaml.ScalarNode)}
    more = [
        (key, value)
        for key, value in lower.value
        if not isinstance(key, yaml.ScalarNode) or key.value not in said
    ]
    return [*upper.value, *more]


def _mapping(like: yaml.MappingNode, pairs: list[Pair]) -> yaml.MappingNode:
    return yaml.MappingNode(like.tag, pairs, like.start_mark, like.end_mark)


def _value(node: yaml.MappingNode, key: str) -> yaml.Node | None:
    return next((value for name, value in node.value if name.value == key), None)


def _name(plan: yaml.Node) -> str | None:
    name = _value(plan, "name") if isinstance(plan, yaml.MappingNode) else None
    return name.value if isinstance(name, yaml.ScalarNode) else None
