"""YAML to a policy, or every problem with its line, column and remedy; and back.

The text becomes plain data with a map from path to place (`yaml_nodes`);
pydantic judges the data; the map gives each problem its place. Files are read
only here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Any

from keras_savekit.base.text import show
from keras_savekit.errors import PolicyError, Problem
from keras_savekit.policy.environment import expanded
from keras_savekit.policy.fields import WrongValueError, wrong
from keras_savekit.policy.plan import Policy
from keras_savekit.policy.yaml.include import Including
from keras_savekit.policy.yaml.nodes import Reading, compose, refused

MAX_BYTES = 2**20


def load_policy(path: str | os.PathLike[str], environ: Mapping[str, str] = os.environ) -> Policy:
    """The policy in the YAML file at `path`.

    Raises PolicyError with every problem found.
    """
    source = os.fspath(path)
    return parse_policy(_read(source), source, environ)


def _read(source: str) -> str:
    """The text of a file. Raises PolicyError, with the place of a wrong byte."""
    try:
        with open(source, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise refused(source, "is not a plain file")
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise refused(source, "there is no such file") from None
    except IsADirectoryError:
        raise refused(source, "is a directory; name the YAML file in it") from None
    except (OSError, ValueError) as error:
        raise refused(source, f"cannot be read: {error}") from error
    if len(raw) > MAX_BYTES:
        raise refused(source, "is larger than 1 MiB; a policy is a few lines of YAML")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - raw.rfind(b"\n", 0, error.start)
        problem = Problem("", "is not UTF-8 text; save the file as UTF-8", line, column)
        raise PolicyError(source, (problem,)) from error


def _without_waiting(path: str, flags: int) -> int:
    """Open without waiting for a writer, should the path be a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def parse_policy(
    text: str, source: str = "the policy", environ: Mapping[str, str] = os.environ
) -> Policy:
    """The policy that a YAML text says.

    source: what the text is called in messages; what it includes is looked for beside it.
    environ: where `${NAME}` in a value is looked up.

    Raises PolicyError with every problem found, in reading order.
    """
    root = compose(text, source)
    if root is None:
        raise refused(source, "is empty; a policy needs at least plans: see configs/minimal.yaml")
    reading = Reading(environ)
    root = Including(_read, environ, reading.problems).merged(root, source)
    data = reading.value(root, "")
    try:
        policy = _policy(data)
    except WrongValueError as error:
        found = [
            reading.placed(problem) for problem in error.problems if not reading.covers(problem)
        ]
        problems = sorted(
            reading.problems + found,
            key=lambda problem: (problem.source, problem.line, problem.column),
        )
        raise PolicyError(source, tuple(problems)) from None
    if reading.problems:
        raise PolicyError(source, tuple(reading.problems))
    return policy


def policy_from(
    value: Mapping[str, Any],
    source: str = "the policy",
    environ: Mapping[str, str] = os.environ,
) -> Policy:
    """The policy that a dict of the shape of the YAML says; its parts may be values.

    Raises PolicyError with every problem found.
    """
    problems: list[Problem] = []
    data = expanded(value, "", environ, problems)
    try:
        policy = _policy(data)
    except WrongValueError as error:
        broken = {problem.path for problem in problems}
        problems += [problem for problem in error.problems if problem.path not in broken]
        raise PolicyError(source, tuple(problems)) from None
    if problems:
        raise PolicyError(source, tuple(problems))
    return policy


def _policy(data: object) -> Policy:
    if not isinstance(data, dict):
        hint = "; write plans: above the list" if isinstance(data, list) else ""
        raise wrong(f"must be keys and values such as plans: ..., got {show(data)}{hint}")
    return Policy(**data)
