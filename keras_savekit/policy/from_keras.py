"""Translate a stock Keras callback, as program text, into the policy that does the same.

The text is parsed, never run. What a policy cannot know or does otherwise is
said in notes. Behaviour as in the callbacks' documentation, Keras 3.3 to 3.15.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import Any

from keras_savekit.base.text import show, suggest
from keras_savekit.errors import PolicyError, Problem
from keras_savekit.policy.plan import Policy

_DEFAULTS: dict[str, dict[str, Any]] = {
    "ModelCheckpoint": {
        "filepath": None,
        "monitor": "val_loss",
        "verbose": 0,
        "save_best_only": False,
        "save_weights_only": False,
        "mode": "auto",
        "save_freq": "epoch",
        "initial_value_threshold": None,
    },
    "BackupAndRestore": {
        "backup_dir": None,
        "save_freq": "epoch",
        "double_checkpoint": False,
        "delete_checkpoint": True,
    },
}
_EXAMPLE = "ModelCheckpoint('best.h5', monitor='val_loss', save_best_only=True)"


@dataclass(frozen=True, slots=True)
class Migration:
    """The policy, and what a reader should know beside it."""

    policy: Policy
    notes: tuple[str, ...]

    def to_yaml(self) -> str:
        """The policy as YAML, the notes above it."""
        return "".join(f"# {note}\n" for note in self.notes) + self.policy.to_yaml()


def from_keras(text: str) -> Migration:
    """The policy that does what the callback in `text` does.

    Raises PolicyError, with the column, if it is not one that is known.
    """
    name, given = _read(text)
    options = {**_DEFAULTS[name], **given}
    return _checkpoint(options) if name == "ModelCheckpoint" else _backup(options)


def _read(text: str) -> tuple[str, dict[str, Any]]:
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        message = getattr(error, "msg", str(error))
        raise _refused(f"is not Python: {message}; write {_EXAMPLE}") from error
    if not isinstance(node, ast.Call):
        raise _refused(f"is no call of a callback; write {_EXAMPLE}")
    name = ast.unparse(node.func).rpartition(".")[2]
    if name not in _DEFAULTS:
        raise _refused(f"{show(name)} is not known; {suggest(name, _DEFAULTS)}", node)
    known = list(_DEFAULTS[name])
    if len(node.args) > len(known):
        raise _refused(f"{name} takes at most {len(known)} arguments", node)
    pairs = [
        *zip(known, node.args, strict=False),
        *((keyword.arg, keyword.value) for keyword in node.keywords),
    ]
    problems: list[Problem] = []
    given: dict[str, Any] = {}
    for key, value in pairs:
        try:
            _take(given, name, key, value)
        except PolicyError as error:  # noqa: PERF203 - every argument's problem is wanted
            problems += error.problems
    required = known[0]
    if not problems and not (isinstance(given.get(required), str) and given[required]):
        problems.append(Problem(required, f"is missing: {name} needs it, as a text in quotes"))
    if problems:
        raise PolicyError("the callback", tuple(problems))
    return name, given


def _take(given: dict[str, Any], name: str, key: str | None, value: ast.expr) -> None:
    known = _DEFAULTS[name]
    if key not in known:
        hint = suggest(key, known) if key else "write each argument out"
        raise _refused(f"{show(key or '**')} is no argument of {name}; {hint}", value)
    if key in given:
        raise _refused(f"{key} is given twice", value)
    try:
        given[key] = ast.literal_eval(value)
    except (ValueError, TypeError, MemoryError, RecursionError) as error:
        raise _refused(
            f"{key} is {ast.unparse(value)}, which only the program knows; write its value", value
        ) from error
    _require(key, given[key], value)


def _require(key: str, value: Any, node: ast.expr) -> None:
    """Refuse what Keras itself would refuse."""
    allowed: str | None = None
    if key == "save_freq":
        whole = isinstance(value, int) and not isinstance(value, bool) and value > 0
        allowed = None if value == "epoch" or whole else "'epoch' or a whole number of batches"
    elif key == "mode" and value not in ("auto", "min", "max"):
        allowed = "'auto', 'min' or 'max'"
    elif key in ("monitor", "filepath", "backup_dir") and not isinstance(value, str):
        allowed = "a text in quotes"
    elif key == "initial_value_threshold":
        number = isinstance(value, int | float) and not isinstance(value, bool)
        allowed = None if value is None or number else "a number"
    if allowed:
        raise _refused(f"{key} must be {allowed}, got {show(value)}", node)


def _checkpoint(options: dict[str, Any]) -> Migration:
    path, notes = options["filepath"], []
    every: dict[str, Any] = (
        {"epochs": 1} if options["save_freq"] == "epoch" else {"steps": options["save_freq"]}
    )
    when: Any = {"every": every}
    keep: Any = "all" if "{" in path else "last 1"
    if options["save_best_only"]:
        monitor, mode = options["monitor"], options["mode"]
        if mode == "auto":
            mode = _guessed(monitor)
            notes.append(f"Keras guesses the mode of {monitor} from its name; check it: {mode}.")
        improved: dict[str, Any] = {"metric": monitor, "mode": mode}
        if options["initial_value_threshold"] is not None:
            improved["from"] = options["initial_value_threshold"]
        when = {"improved": improved}
        if "steps" in every:
            when = {"all": [{"every": every}, {"improved": {**improved, "at": "step"}}]}
            notes.append("The best of all steps counts, not only of those looked at.")
        keep = keep if keep == "all" else {"best": 1, "metric": monitor, "mode": mode}
    weights = bool(options["save_weights_only"])
    notes.append("The file is in a checkpoint of its own; `latest` and `best` lead to them.")
    plan = {
        "name": "best" if options["save_best_only"] else "latest",
        "save": "weights" if weights else "model",
        **({"format": "keras"} if path.endswith(".keras") and not weights else {}),
        "when": when,
        "keep": keep,
    }
    return Migration(Policy(directory=_directory(path), resume="never", plans=[plan]), tuple(notes))


def _guessed(monitor: str) -> str:
    """The mode that Keras takes for `auto`: by the name, as its documentation says."""
    likes_more = "acc" in monitor or "auc" in monitor.lower() or monitor.startswith("fmeasure")
    return "max" if likes_more else "min"


def _directory(path: str) -> str:
    """The part of a path before the first placeholder and the file's name."""
    fixed = path.partition("{")[0].rpartition("/")[0] or "checkpoints"
    return re.sub(r"/+$", "", fixed) or "/"


def _backup(options: dict[str, Any]) -> Migration:
    freq = options["save_freq"]
    every = {"epochs": 1} if freq == "epoch" else {"steps": freq}
    plan = {
        "name": "latest",
        "when": [{"every": every}],
        "keep": f"last {2 if options['double_checkpoint'] else 1}",
    }
    notes = ["Resumes in mid-epoch where data is `keras_savekit.resumable`."]
    if options["delete_checkpoint"]:
        notes.append("The checkpoint stays when training ends; Keras would delete it.")
    return Migration(Policy(directory=options["backup_dir"], plans=[plan]), tuple(notes))


def _refused(message: str, node: ast.expr | None = None) -> PolicyError:
    column = node.col_offset + 1 if node is not None else 1
    return PolicyError("the callback", (Problem("", message, 1, column),))
