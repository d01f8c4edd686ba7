"""Policies as YAML: what is read, and how every mistake is told."""

import os
import traceback
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keras_savekit.errors import PolicyError
from keras_savekit.policy.fields import WrongValueError
from keras_savekit.policy.plan import Policy, SavePlan
from keras_savekit.policy.rules.kinds import Best, Last
from keras_savekit.policy.triggers.metric import Improved
from keras_savekit.policy.triggers.schedule import Every, OnException, TrainEnd
from keras_savekit.policy.yaml.load import MAX_BYTES, load_policy, parse_policy, policy_from

quick = settings(deadline=None, derandomize=True, max_examples=150)
CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


def plan(text):
    """A policy with one plan: `text` stands two spaces in, from line 4."""
    lines = "".join(f"    {line}\n" for line in text.splitlines())
    return f"plans:\n  - name: a\n    when: every epoch\n{lines}"


def when(text):
    """A policy whose `when` is `text`, which begins in line 3, column 11."""
    return f"plans:\n  - name: a\n    when: {text}\n"


def problems_of(text, environ=None):
    with pytest.raises(PolicyError) as caught:
        parse_policy(text, "my.yaml", environ or {})
    assert not isinstance(caught.value, WrongValueError)
    return caught.value.problems


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_the_policies_to_copy_can_be_used(path):
    policy = load_policy(path, {})
    assert policy_from(policy.model_dump(mode="json")) == policy
    assert policy.directory


def test_there_are_policies_to_copy():
    names = {path.name for path in CONFIGS}
    assert names >= {"minimal.yaml", "best-and-latest.yaml", "long-run.yaml", "every-option.yaml"}


def test_the_reference_shows_every_key():
    text = (Path(__file__).parent.parent / "configs" / "every-option.yaml").read_text()
    fields = {*Policy.model_fields, *SavePlan.model_fields, *Every.model_fields}
    for key in fields | {"improved", "metric", "mode", "min_delta", "any", "all", "not", "queue"}:
        assert key in text


def test_a_policy_is_read_into_values():
    policy = parse_policy("""
version: 1
directory: runs/digits
resume: required
plans:
  - name: latest
    when:
      - every: {steps: 20}
      - train_end
      - exception
    keep: {last: 3}
    verify: load
  - {name: best, when: [improved: {metric: acc, mode: max, min_delta: 1e-3}],
     keep: {best: 1, metric: acc, mode: max}, when_busy: wait}
limits: {queue: 2}
on_failure: raise
""")
    assert policy == Policy(
        directory="runs/digits",
        resume="required",
        plans=[
            SavePlan(
                name="latest",
                when=[Every(steps=20), TrainEnd(), OnException()],
                keep=Last(count=3),
                verify="load",
            ),
            SavePlan(
                name="best",
                when=Improved(metric="acc", mode="max", min_delta=0.001),
                keep=Best(count=1, metric="acc", mode="max"),
                when_busy="wait",
            ),
        ],
        limits={"queue": 2},
        on_failure="raise",
    )


def test_a_wrong_policy_is_told_as_a_reader_needs_it():
    text = """directory: runs/a

plans:
  - name: a
    save: model
    when:
      - evry: {steps: 200}
    verify: load
    keep: {last: 0}
"""
    with pytest.raises(PolicyError) as caught:
        parse_policy(text, "configs/mine.yaml")
    assert str(caught.value) == (
        "configs/mine.yaml cannot be used (2 problems)\n"
        '  line 7, column 9: plans[0].when[0].evry: unknown key; did you mean "every"?\n'
        "  line 9, column 18: plans[0].keep.last: must be 1 or more, got 0"
    )


MALFORMED = [
    # YAML itself
    ("plans:\n\t- name: a\n", 2, 1, "a tab cannot indent YAML; use spaces"),
    ("plans:\n  - name: a\n\t  when: x\n", 3, 0, "a tab cannot indent YAML; use spaces"),
    ("plans: [", 1, 9, "is not YAML"),
    ("plans: {a: b", 1, 13, "is not YAML"),
    ("a: b: c", 1, 5, "a colon is not allowed here"),
    ("plans:\n  - name: a\n   - name: b\n", 3, 4, "this dash is at another indentation"),
    ("plans:\n  - name\n  x: 1\n", 3, 3, "is not YAML"),
    ('a: "open', 1, 9, "is not YAML"),
    ("a: *gone\n", 1, 4, "undefined alias"),
    ("a: \x00\n", 1, 4, "is not allowed in YAML; remove it"),
    ("a: 1\nb: \x07\n", 2, 4, "is not allowed in YAML; remove it"),
    ('a: "\\UFFFFFFFF"\n', 0, 0, "backslash in double quotes"),
    ("a: 1\n---\nb: 2\n", 2, 1, "one document: remove the --- line"),
    ("%YAML 3.0\n---\na: 1\n", 1, 1, "is not YAML"),
    ("[" * 5000, 1, 41, "nested deeper than 40 levels"),
    # the top
    ("", 0, 0, "is empty"),
    ("# only a comment\n", 0, 0, "is empty"),
    ("[1]", 1, 1, "got a list; write plans: above the list"),
    ("plans", 1, 1, "must be keys and values"),
    ("17", 1, 1, "must be keys and values"),
    ("null", 1, 1, "must be keys and values such as plans: ..., got nothing"),
    ("directory: x\n", 1, 1, "plans: is missing"),
    ("plans:\n", 1, 7, "must be a list"),
    ("plans: []\n", 1, 8, "needs at least one plan"),
    ("plans: {a: {}}\n", 1, 8, "each plan starting with - name"),
    ("plans: [x]\n", 1, 9, "must be a mapping"),
    (plan("") + "verison: 1\n", 4, 1, 'did you mean "version"'),
    (plan("") + "colour: 1\n", 4, 1, "allowed: version, directory"),
    (plan("") + "version: 2\n", 4, 10, "must be 1, got 2"),
    (plan("") + "version: one\n", 4, 10, "must be 1"),
    (plan("") + "directory: [a]\n", 4, 12, "must be text, got a list"),
    (plan("") + "directory: 12\n", 4, 12, "must be text, got 12; put it in quotes"),
    (plan("") + "directory: ''\n", 4, 12, "must not be empty"),
    (plan("") + "resume: autom\n", 4, 9, 'did you mean "auto"'),
    (
        plan("") + "resume: [auto]\n",
        4,
        9,
        "or a mapping such as {on_mismatch: weights}; got a list",
    ),
    (plan("") + "resume: {mode: maybe}\n", 4, 16, "must be auto or never or required"),
    (plan("") + "resume: {on_mismatch: weight}\n", 4, 23, 'did you mean "weights"'),
    (plan("") + "resume: {on_mismach: weights}\n", 4, 10, 'did you mean "on_mismatch"'),
    (plan("") + "on_failure: stop\n", 4, 13, "must be warn or raise or resave"),
    (plan("") + "limits: 3\n", 4, 9, "must be a mapping"),
    (plan("") + "limits: {queue: 0}\n", 4, 17, "must be 1 or more, got 0"),
    (plan("") + "limits: {queue: 1.5}\n", 4, 17, "must be a whole number, got 1.5"),
    (plan("") + "limits: {overhed: 5%}\n", 4, 10, 'did you mean "overhead"'),
    (plan("") + "plans: []\n", 4, 1, "is here twice, first in line 1"),
    # one plan
    ("plans:\n  - when: every epoch\n", 2, 5, "name: is missing"),
    ("plans:\n  - name: a\n", 2, 5, "when: is missing"),
    ("plans:\n  - name: a b\n    when: train_end\n", 2, 11, "letters, digits"),
    ("plans:\n  - name: on\n    when: train_end\n", 2, 11, "YAML takes a bare on for true"),
    ("plans:\n  - name: 7\n    when: train_end\n", 2, 11, "put it in quotes"),
    (plan("name: b"), 4, 5, "is here twice, first in line 2"),
    (plan("wen: 3"), 4, 5, 'did you mean "when"'),
    (plan("save: all"), 4, 11, "must be model or weights"),
    (plan("save: yes"), 4, 11, "YAML takes a bare yes for true"),
    (plan("format: tf"), 4, 13, "keras"),
    (plan("format: weights.h5"), 4, 13, "model is saved as h5"),
    (plan("verify: full"), 4, 13, "bytes or structure or load"),
    (plan("when_busy: drop"), 4, 16, "replace or wait"),
    (plan("on: 3"), 4, 5, "takes a bare on for true or false"),
    (plan("3: on"), 4, 5, "takes a bare 3 for a number"),
    (plan("~: 3"), 4, 5, "takes a bare ~ for nothing"),
    (plan("2024-01-31: x"), 4, 5, "for something else"),
    (plan("{{ x }}: 3"), 4, 5, "a key must be a word"),
    (plan(": 3"), 4, 5, "is not YAML"),
    (plan("keep: !!set {last: 3}"), 4, 11, "the tag !!set is not used"),
    (plan("keep: !mine all"), 4, 11, "the tag !mine is not used"),
    (plan("<<: 3"), 4, 9, "<< takes an alias of a mapping"),
    # keep
    (plan("keep:"), 4, 10, "got nothing"),
    (plan("keep: 3"), 4, 11, "write {last: 3}"),
    (plan("keep: []"), 4, 11, "write all to keep everything"),
    (plan("keep: last"), 4, 11, 'must be written like "last 3"'),
    (plan("keep: {lst: 3}"), 4, 12, 'did you mean "last"'),
    (plan("keep: {last: 0}"), 4, 18, "must be 1 or more"),
    (plan("keep: {last: three}"), 4, 18, 'must be a number, got "three"'),
    (plan("keep: {last: true}"), 4, 18, "must be a number, got true"),
    (plan("keep: {best: 1, metric: a}"), 4, 11, "mode: is missing"),
    (plan("keep: {best: 1, metric: a, mode: up}"), 4, 38, "must be min or max"),
    (plan("keep: {metric: a, mode: min}"), 4, 11, "need best"),
    (plan("keep:\n  - last: 2\n  - last: 3"), 5, 7, "such a rule already"),
    (plan("keep: [all, last 2]"), 4, 11, "all keeps everything"),
    # when
    (when("[]"), 3, 11, "needs at least one trigger"),
    (when("3"), 3, 11, "must be a trigger"),
    (when("evry 2 steps"), 3, 11, 'did you mean "every"'),
    (when("every 2 stps"), 3, 11, 'did you mean "steps"'),
    (when("[train_end, train_end]"), 3, 23, "same as entry 1"),
    (when("{evry: {steps: 2}}"), 3, 12, 'did you mean "every"'),
    (when("{every: {stps: 2}}"), 3, 20, 'did you mean "steps"'),
    (when("{every: {steps: 0}}"), 3, 27, "must be 1 or more, got 0"),
    (when("{every: {steps: yes}}"), 3, 27, "YAML takes a bare yes for true"),
    (when("{every: {steps: 010}}"), 3, 27, "010 is read as 8 by YAML (octal); write 10"),
    (when("{every: {steps: -010}}"), 3, 27, "is read as -8 by YAML (octal); write -10"),
    (when("{every: {steps: 000}}"), 3, 27, "is read as 0 by YAML (octal); write 0"),
    (when("{every: {steps: 089}}"), 3, 27, 'must be a number, got "089"'),
    (when("{every: {seconds: 12:30:00}}"), 3, 29, "45000 by YAML (base 60)"),
    (when("{every: {seconds: 1:30.5}}"), 3, 29, "90.5 by YAML (base 60)"),
    (when("{every: {seconds: .nan}}"), 3, 29, "must be a finite number"),
    (when("{every: {seconds: 1e400}}"), 3, 29, "must be a finite number"),
    (when("{every: {steps: " + "9" * 5000 + "}}"), 3, 27, "finite number"),
    (when("{every: {steps: !!int many}}"), 3, 27, "must be a number"),
    (when("{every: {steps: 1, epochs: 2}}"), 3, 19, "got steps and epochs"),
    (when("{every: 200}"), 3, 19, "must be written as {every: {steps: 200}}"),
    (when("\n      - every:\n        steps: 2"), 4, 9, "indent steps further"),
    (when("{improved: {metric: a}}"), 3, 22, "mode: is missing: which way is better"),
    (when("{train_end: true}"), 3, 23, "write train_end alone"),
    (when("{not: train_end}"), 3, 11, "would save after every batch"),
    (when("{all: [train_end, exception]}"), 3, 17, "can never happen"),
    (when("{any: []}"), 3, 17, "needs at least one trigger"),
    (when("{any: [{not: {every: {steps: -1}}}]}"), 3, 40, "must be 1 or more, got -1"),
    # environment variables and aliases
    (when("every ${N} steps"), 3, 11, "the environment variable N is not set"),
    (when("{every: {steps: ${N}}}"), 3, 0, 'put "${NAME}" in quotes'),
    (plan("") + "directory: ${}\n", 4, 12, "names no environment variable"),
    (plan("") + "directory: ${A B}\n", 4, 12, "names no environment variable"),
    (plan("") + "directory: ${OPEN\n", 4, 12, "names no environment variable"),
    ("plans: &a [*a]\n", 1, 8, "contains itself"),
    (plan("") + "limits: &a {<<: *a}\n", 4, 9, "contains itself"),
    # every, in more detail
    (when("{every: {}}"), 3, 19, "got none"),
    (when("{every: {offset: 3}}"), 3, 19, "got none"),
    (when("{every: {steps: 5, offset: 5}}"), 3, 38, "must be less than the 5 steps"),
    (when("{every: {steps: 5, offset: 2.5}}"), 3, 38, "must be a whole number of steps"),
    (when("{every: {steps: 5, offset: -1}}"), 3, 38, "must be 0 or more"),
    (when("{every: {epochs: 5, first: 7.5}}"), 3, 38, "must be a whole number of epochs"),
    (when("{every: {steps: 5, frist: 7}}"), 3, 30, 'did you mean "first"'),
    (when("{every: 10x}"), 3, 19, "must be written as {every: {steps: 200}}"),
    (when("{every: 1m30h}"), 3, 19, "must be written as {every: {steps: 200}}"),
    (when("every 1m30h"), 3, 11, "unknown unit"),
    (when("every 5 steps offset x"), 3, 11, 'offset must be a number, got "x"'),
    (when("every 5 steps ofset 3"), 3, 11, "must be written like"),
    (when("every 0m"), 3, 11, "must be more than 0"),
    # improved
    (when("{improved: {metric: a, mode: min, form: 3}}"), 3, 45, 'did you mean "from"'),
    (when("{improved: {metric: a, mode: min, from: low}}"), 3, 51, "must be a number"),
    (when("{improved: {metric: a, mode: min, at: batch}}"), 3, 49, "must be epoch or step"),
    (when("{improved: {metric: a, mode: min, keep: newest}}"), 3, 51, "must be first or last"),
    (when("{improved: {metric: a, mode: min, min_delta: -1}}"), 3, 56, "must be 0 or more"),
    (when("{improved: {metric: [a], mode: min}}"), 3, 31, "must be text, got a list"),
    (when("{improved: val_loss}"), 3, 22, "must be written as {improved: {metric"),
    (when("improved a up"), 3, 11, "mode must be min or max"),
    (when("improved a min by little"), 3, 11, "min_delta must be a number"),
    (when("improved a min from low"), 3, 11, "from must be a number"),
    # reached
    (when("{reached: }"), 3, 20, "must be text, got nothing"),
    (when("{reached: ''}"), 3, 21, "must not be empty"),
    (when("{reached: 5}"), 3, 21, "must be text, got 5"),
    (when("{reached: 5 > 3}"), 3, 21, "compares no metric"),
    (when("{reached: acc}"), 3, 21, "needs one of < <= > >= == !="),
    (when("{reached: acc > }"), 3, 21, "needs a metric or a number at character 6"),
    (when("{reached: acc => 1}"), 3, 21, "at character 5"),
    (when("{reached: acc > 0.9 und b < 1}"), 3, 21, 'got "und"'),
    (when("{reached: (acc > 0.9}"), 3, 21, 'needs ")"'),
    (when("{reached: acc > 0.9)}"), 3, 21, 'got ")"'),
    (when("{reached: and > 1}"), 3, 21, 'got "and"'),
    (when("{reached: 0.1 < acc < 1}"), 3, 21, 'got "<"'),
    (when("{reached: __import__('os') > 1}"), 3, 21, "at character 11"),
    (when("{reached: acc.__class__() > 1}"), 3, 21, 'got "("'),
    (when("{reached: acc ** 9 > 1}"), 3, 21, 'got "*"'),
    (when("{reached: {fires: once}}"), 3, 21, "condition: is missing"),
    (when("{reached: {condition: a > 1, fires: twice}}"), 3, 47, "must be once or while_true"),
    (when("{reached: {condition: a > 1, at: batch}}"), 3, 44, "must be epoch or step"),
    (when("reached"), 3, 11, "must not be empty"),
    (when("reached acc"), 3, 11, "needs one of"),
    # lists of steps and epochs
    (when("{epoch_end: }"), 3, 22, "must be a number, got nothing"),
    (when("{epoch_end: []}"), 3, 23, "needs at least one number"),
    (when("{epoch_end: [0]}"), 3, 24, "must be 1 or more, got 0"),
    (when("{epoch_end: [5, 5]}"), 3, 27, "says the same as entry 1"),
    (when("{epoch_end: [5, x]}"), 3, 27, "must be a number"),
    (when("{steps: [1.5]}"), 3, 20, "must be a whole number"),
    (when("{steps: {at: [5]}}"), 3, 19, "must be a number, got a mapping"),
    (when("epoch_end"), 3, 11, 'must be written like "epoch_end 5 10 20"'),
    (when("steps many"), 3, 11, 'must be written like "steps 1000 5000"'),
    (when("train_begin now"), 3, 11, "takes no more words"),
    (when("{train_begin: 1}"), 3, 25, "write train_begin alone"),
    (when("{all: [train_begin, every 3 steps]}"), 3, 17, "can never happen"),
    (when("{all: [epoch_end 5, train_end]}"), 3, 17, "can never happen"),
    # from outside
    (when("{signal: []}"), 3, 20, "needs at least one signal"),
    (when("{signal: SIGTREM}"), 3, 20, 'did you mean "SIGTERM"'),
    (when("{signal: [SIGKILL]}"), 3, 21, "cannot be caught"),
    (when("{signal: [15]}"), 3, 21, "must be the name of a signal, got 15"),
    (when("{signal: [TERM, SIGTERM]}"), 3, 27, "says the same as entry 1"),
    (when("{signal: {names: SIGTERM, then: quit}}"), 3, 43, "must be stop or continue"),
    (when("{signal: {then: stop}}"), 3, 20, "names: is missing"),
    (when("signal"), 3, 11, "needs at least one signal"),
    (when("signal SIGUSR1 then quit"), 3, 11, "then must be stop or continue"),
    (when("{file: ../x}"), 3, 18, "must be the name of a file"),
    (when("{file: .hidden}"), 3, 18, "a leading dot"),
    (when("{file: latest}"), 3, 18, "choose another name"),
    (when("{file: [a]}"), 3, 18, "must be text, got a list"),
    (when("file"), 3, 11, "must not be empty"),
    (when("file a b"), 3, 11, "must be the name of a file"),
    (when("before_deadline"), 3, 11, "cannot be said in one line"),
    (when("{before_deadline: soon}"), 3, 29, "must be written as {before_deadline"),
    (when("{before_deadline: {margin: 5m}}"), 3, 29, "at: is missing"),
    (when("{before_deadline: {at: soon}}"), 3, 34, "must be a time such as"),
    (when("{before_deadline: {at: -5}}"), 3, 34, "must be a time such as"),
    (when("{before_deadline: {at: env 5}}"), 3, 34, "must be a time such as"),
    (when("{before_deadline: {at: 2e9, margin: 0}}"), 3, 47, "must be more than 0"),
    (when("{before_deadline: {at: 2e9, margin: 5 min}}"), 3, 47, "must be a duration such as"),
    # keep, in more detail
    (plan("keep: {every: 5}"), 4, 19, "must be written as {every: {epochs: 50}}"),
    (plan("keep: {every: {epoch: 5}}"), 4, 20, 'did you mean "epochs"'),
    (plan("keep: {every: {epochs: 5, steps: 3}}"), 4, 19, "got epochs and steps"),
    (plan("keep: {every: {hours: 0}}"), 4, 27, "must be more than 0"),
    (plan("keep: every 5 blocks"), 4, 11, "unknown key"),
    (plan("keep: {newer_than: 7 weeks}"), 4, 24, "must be a duration such as"),
    (plan("keep: {newer_than: 0}"), 4, 24, "must be more than 0"),
    (plan("keep: {newr_than: 7d}"), 4, 12, 'did you mean "newer_than"'),
    (plan("keep: {size: 20XB}"), 4, 18, 'unknown unit "XB"'),
    (plan("keep: {size: big}"), 4, 18, "must be a size such as"),
    (plan("keep: {size: 1e17GB}"), 4, 18, "must be a size such as"),
    (plan("keep: {size: 900000TB}"), 4, 18, "must be at most"),
    (plan("keep: {size: 0GB}"), 4, 18, "must be more than 0"),
    (plan("keep: {last: 2, keep: last}"), 4, 11, "keep needs best"),
    (plan("keep: {best: 2, metric: a, mode: min, keep: all}"), 4, 49, "must be first or last"),
    (plan("keep: [size 2GB, size 3GB]"), 4, 11, "there is such a rule already"),
    (plan("not_finite: no"), 4, 17, "YAML takes a bare no for false"),
    (plan("not_finite: warn"), 4, 17, "must be skip or save"),
    # limits
    (plan("") + "limits: {overhead: 500%}\n", 4, 20, "less than 100%"),
    (plan("") + "limits: {overhead: 5}\n", 4, 20, "must be a share such as 5%"),
    (plan("") + "limits: {overhead: 0}\n", 4, 20, "more than 0%"),
    (plan("") + "limits: {overhead: a%}\n", 4, 20, "must be a number"),
    (plan("") + "limits: {disk: 0}\n", 4, 16, "must be more than 0"),
    (plan("") + "limits: {free_space: much}\n", 4, 22, "must be a size such as"),
    (plan("") + "limits: {freespace: 1GB}\n", 4, 10, 'did you mean "free_space"'),
    # include
    ("include:\n", 1, 9, "must be a file's path"),
    ("include: [[a]]\n", 1, 11, "must be a file's path"),
    ("include: {a: b}\n", 1, 10, "must be a file's path"),
    ("include: no-such-file.yaml\n", 1, 10, "there is no such file"),
    ("include: ${NOT_SET}\n", 1, 10, "NOT_SET is not set"),
    ("include: configs/minimal.yaml\nplans: 3\n", 2, 8, "must be a list"),
    (plan("") + "directory: ${A B:-c}\n", 4, 12, "names no environment variable"),
    (plan("") + "directory: ${:-c}\n", 4, 12, "names no environment variable"),
]


@pytest.mark.parametrize(("text", "line", "column", "message"), MALFORMED)
def test_a_malformed_policy_is_told_with_line_column_and_remedy(text, line, column, message):
    problems = problems_of(text)
    told = [each for each in problems if message in str(each)]
    assert told, "\n".join(map(str, problems))
    assert told[0].line == line
    assert column in (0, told[0].column)


def test_the_malformed_policies_are_many_and_all_different():
    assert len({text for text, *_ in MALFORMED}) >= 200


def test_one_mistake_is_told_once():
    assert len(problems_of(when("{every: {steps: 010, epoch: 3}}"))) == 2
    assert len(problems_of(when("{every: {steps: yes}}"))) == 1
    assert len(problems_of(plan("keep: all\nkeep: [oh]\nkeep: 3"))) == 2
    assert len(problems_of(plan("keep: !mine 3"))) == 1


def test_problems_come_in_the_order_of_the_file():
    text = "verison: 1\nplans:\n  - name: a b\n    keep: 010\n    when: evry\nresume: maybe\n"
    assert [each.line for each in problems_of(text)] == [1, 3, 4, 5, 6]


def test_an_alias_bomb_is_refused_quickly():
    levels = "".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 10)}]\n" for i in range(1, 12))
    problems = problems_of(f"x0: &x0 [{', '.join('1' * 10)}]\n{levels}")
    assert len(problems) == 1
    assert "more than 20000 values" in problems[0].message


def test_aliases_cannot_nest_deeper_than_text():
    chain = "".join(f"x{i}: &x{i} [*x{i - 1}]\n" for i in range(1, 100))
    assert any("nested deeper" in each.message for each in problems_of(f"x0: &x0 [1]\n{chain}"))


def test_aliases_and_merge_keys_share_parts():
    policy = parse_policy("""
plans:
  - &first
    name: a
    when: [&often {every: {steps: 5}}, train_end]
    keep: &few {last: 2}
  - name: b
    when: *often
    keep: *few
  - <<: *first
    name: c
    verify: bytes
""")
    a, b, c = policy.plans
    assert b == SavePlan(name="b", when="every 5 steps", keep="last 2")
    assert (c.name, c.when, c.keep, c.verify) == ("c", a.when, a.keep, "bytes")


def test_a_merged_part_is_blamed_where_it_stands():
    text = when("every epoch") + "    <<: {vrify: load, keep: {last: 0}}\n"
    assert [(each.line, each.column) for each in problems_of(text)] == [(4, 10), (4, 36)]


def test_environment_variables_stand_in_any_value():
    text = """
directory: ${BASE}/${RUN_1}
plans:
  - name: p-${RUN_1}
    when: ["every ${N} epochs", every: {steps: "${N}"}, improved: {metric: "$x{N}", mode: max}]
"""
    policy = parse_policy(text, environ={"BASE": "/data", "RUN_1": "seven", "N": "3"})
    assert policy.directory == "/data/seven"
    assert policy.plans[0].name == "p-seven"
    assert policy.plans[0].when[:2] == (Every(epochs=3), Every(steps=3))
    assert policy.metrics() == {"$x{N}"}


def test_the_value_of_an_environment_variable_is_not_expanded_again():
    policy = parse_policy(plan("") + "directory: ${A}\n", environ={"A": "${B}"})
    assert policy.directory == "${B}"


def test_the_processes_own_environment_is_the_default(monkeypatch):
    monkeypatch.setenv("SAVEKIT_TEST_RUN", "from-outside")
    text = plan("") + "directory: ${SAVEKIT_TEST_RUN}\n"
    assert parse_policy(text).directory == "from-outside"


def test_numbers_that_yaml_takes_for_words_are_read():
    text = when("[{improved: {metric: a, mode: min, min_delta: 1e-3}}, {every: {steps: 1e3}}]")
    policy = parse_policy(text)
    assert policy.plans[0].when[0] == Improved(metric="a", mode="min", min_delta=0.001)
    assert policy.plans[0].when[1] == Every(steps=1000)


def test_a_date_can_name_a_plan():
    assert parse_policy("plans: [{name: 2024-01-31, when: every epoch}]").plans[0].name == (
        "2024-01-31"
    )


def test_a_null_leaves_the_directory_open():
    assert parse_policy(plan("") + "directory:\n").directory is None


FILES = [
    (b"", "is empty"),
    (b"plans: \xff\xfe", "line 1, column 8: is not UTF-8 text"),
    (b"a: 1\nb: \xe4\n", "line 2, column 4: is not UTF-8 text"),
    ("plans: []".encode("utf-16"), "is not UTF-8"),
    (b"#" * (MAX_BYTES + 1), "is larger than 1 MiB"),
]


@pytest.mark.parametrize(("content", "message"), FILES, ids=range(len(FILES)))
def test_a_file_that_is_no_policy_is_told_by_name(tmp_path, content, message):
    path = tmp_path / "p.yaml"
    path.write_bytes(content)
    with pytest.raises(PolicyError) as caught:
        load_policy(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + when("every epoch").encode())
    assert load_policy(str(path)).plans[0].when == (Every(epochs=1),)


def test_a_path_without_a_policy_is_told(tmp_path):
    with pytest.raises(PolicyError, match="there is no such file"):
        load_policy(tmp_path / "none.yaml")
    with pytest.raises(PolicyError, match="is a directory; name the YAML file in it"):
        load_policy(tmp_path)
    with pytest.raises(PolicyError, match="cannot be read"):
        load_policy("a\0b")
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(PolicyError, match="is not a plain file"):
        load_policy(tmp_path / "pipe.yaml")
    path = tmp_path / "p.yaml" / "inner.yaml"
    path.parent.write_text("")
    with pytest.raises(PolicyError, match="cannot be read"):
        load_policy(path)


def test_a_dict_of_the_same_shape_is_a_policy():
    value = {
        "directory": "${D}",
        "plans": (LATEST := {"name": "a", "when": [Every(epochs=2), "train_end"]},),
        "limits": {"queue": 3},
    }
    policy = policy_from(value, environ={"D": "here"})
    assert policy.directory == "here"
    assert policy.plans == (SavePlan(**LATEST),)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"plans": [{1: 2, "name": "a", "when": "every epoch"}]}, "plans[0]: a key must be text"),
        ({"plans": [{"name": "${X}", "when": "every epoch"}]}, "variable X is not set"),
        ({"plans": [{"name": "a", "when": "every ${X} epochs"}]}, "variable X is not set"),
        ({"plans": [{"name": "a", "when": "evry"}]}, "plans[0].when: no trigger"),
        ({}, "plans: is missing"),
        ([], "must be keys and values"),
        (None, "must be keys and values"),
    ],
)
def test_a_wrong_dict_is_told_without_lines(value, message):
    with pytest.raises(PolicyError) as caught:
        policy_from(value, "my dict", environ={})
    assert "my dict" in str(caught.value)
    assert message in str(caught.value)
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].line == 0


@pytest.mark.parametrize(
    "read",
    [
        lambda: parse_policy(when("every 0 steps")),
        lambda: parse_policy(when("{every: {steps: 0}}")),
        lambda: parse_policy(plan("keep: last 0\nwen: x")),
        lambda: policy_from({"plans": [{"name": "a", "when": "evry epoch"}]}),
        lambda: Policy(plans=[{"name": "a", "when": "every epoch", "keep": "last 0"}]),
        lambda: SavePlan(name="a", when="every epoch", resume="maybe"),
        lambda: Every(steps=0),
        lambda: load_policy("none.yaml"),
    ],
)
def test_a_policy_mistake_shows_one_exception_and_no_chained_ones(read):
    with pytest.raises(PolicyError) as caught:
        read()
    lines = "".join(traceback.format_exception(caught.value)).splitlines()
    assert lines.count("Traceback (most recent call last):") == 1


def test_the_error_of_the_yaml_library_stays_as_the_cause():
    with pytest.raises(PolicyError) as caught:
        parse_policy("plans: [}")
    assert "while parsing a flow node" in str(caught.value.__cause__)


def test_a_dict_that_contains_itself_is_refused():
    value = {"plans": []}
    value["plans"].append(value)
    with pytest.raises(PolicyError, match="nested deeper than 40 levels"):
        policy_from(value)


def outcome_of(read):
    """A policy or a PolicyError; anything else is raised."""
    try:
        return read()
    except PolicyError as error:
        return error


FRAGMENTS = ["plans:", "- name: a", "  when: every epoch", "  keep: ", "{last: 3}", "<<: *x", "&x "]
FRAGMENTS += ["[", "]", "{", "}", "*x", "\n", "  ", "all", "010", "on", "~", "!!int ", "${A}"]
TEXTS = st.one_of(
    st.text(max_size=60),
    st.text(st.sampled_from("ab:-[]{}&*!|>'\"%@`#,? \n\t0189.ye$<~"), max_size=40),
    st.lists(
        st.sampled_from(FRAGMENTS),
        max_size=20,
    ).map("".join),
)


@settings(quick, max_examples=400)
@given(TEXTS)
@example("? [a]\n: b")
@example("!!map plans")
@example("!!seq {a: b}")
@example("!!null x")
@example("!!bool maybe")
@example("!!float word")
@example("!!int ''")
@example("- <<")
@example("=: =")
@example("a: .inf\n.inf: a")
@example("'a.b]': &x {'': *x}")
def test_no_text_gives_anything_but_a_policy_or_a_policy_error(text):
    outcome = outcome_of(lambda: parse_policy(text, environ={}))
    assert isinstance(outcome, Policy) or all(each.message for each in outcome.problems)


PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["plans", "name", "when", "keep", "every", "not", "any", "all", "steps", "last"]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=8,
)


@quick
@given(PLAIN, st.sampled_from(["top", "plan", "when", "keep"]))
def test_no_data_gives_anything_but_a_policy_or_a_policy_error(value, place):
    shapes = {
        "top": value,
        "plan": {"plans": [value]},
        "when": {"plans": [{"name": "a", "when": value}]},
        "keep": {"plans": [{"name": "a", "when": "every epoch", "keep": value}]},
    }
    outcome = outcome_of(lambda: policy_from(shapes[place], environ={}))
    assert isinstance(outcome, Policy) or all(each.message for each in outcome.problems)


def test_the_environment_is_only_read():
    before = dict(os.environ)
    parse_policy(when("every epoch"))
    assert dict(os.environ) == before
