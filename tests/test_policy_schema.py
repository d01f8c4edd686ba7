"""The JSON Schema agrees with the parser, and is the one that editors are given."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from test_policy_include import POLICIES
from test_policy_yaml import CONFIGS, MALFORMED

from keras_savekit.errors import PolicyError
from keras_savekit.policy.yaml.load import load_policy, parse_policy, policy_from
from keras_savekit.policy.yaml.schema import policy_schema

quick = settings(deadline=None, derandomize=True, max_examples=60)

ROOT = Path(__file__).parent.parent
VALIDATOR = jsonschema.Draft202012Validator(policy_schema())

GOOD_TRIGGERS = [
    "every epoch", "{every: {steps: 5, offset: 2, first: 7}}", "every: 1h30m", "every: '5 m'",
    "{every: {steps: '1e3'}}", "[train_end, exception, train_begin]", "signal: TERM",
    "{signal: {names: [SIGUSR1], then: continue}}", "file: NOW", "epoch_end: 5",
    "epoch_end: [5, '10']", "steps: [1000]", "reached: a > 1",
    "{reached: {condition: a > 1, fires: while_true}}",
    "{improved: {metric: a, mode: min, from: 1e-3, keep: last, at: step}}",
    "{before_deadline: {at: 2e9, margin: 5m}}", "{before_deadline: {at: env END}}",
    "{any: [train_end, {all: [every epoch, {not: every 2 epochs}]}]}", "every ${N:-5} steps",
]  # fmt: skip
GOOD_RULES = [
    "all", "last 3", "{last: 3}", "[{last: 2, best: 1, metric: a, mode: min}]", "size: 20GB",
    "newer_than: 7d", "{every: {epochs: 5}}", "every 5 hours", "newer_than: 60", "size: 512",
    "{best: '2', metric: a, mode: max, keep: last}",
]  # fmt: skip
GOOD = (
    [
        f"plans: [{{name: a, when: {each}}}]"
        for each in GOOD_TRIGGERS
        if ": " not in each[:12] and "$" not in each
    ]
    + [f"plans:\n  - name: a\n    when:\n      {each}\n" for each in GOOD_TRIGGERS]
    + [
        f"plans:\n  - name: a\n    when: train_end\n    keep:\n      {each}\n"
        for each in GOOD_RULES
    ]
    + [
        f"plans: [{{name: a, when: train_end}}]\n{each}\n"
        for each in (
            "limits: {overhead: 5%, disk: 1GB, free_space: 5}",
            "limits: {queue: 2, overhead: 0.1}",
            "resume: ${R:-never}",
            "resume: {on_mismatch: weights}",
            "resume: {mode: required, on_mismatch: ignore}",
            "version: 1",
            "on_failure: raise\ndirectory: x",
        )
    ]
)


def wrongs(data):
    return list(VALIDATOR.iter_errors(data))


def test_the_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(policy_schema())


def test_the_schema_in_the_docs_is_the_one_of_the_code():
    text = (ROOT / "docs" / "policy.schema.json").read_text()
    assert json.loads(text) == policy_schema(), "run: savekit schema > docs/policy.schema.json"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_policies_to_copy_fit_the_schema_and_lead_editors_to_it(path):
    text = path.read_text()
    assert load_policy(path, {}).plans
    assert wrongs(yaml.safe_load(text)) == []
    leads = text.splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / leads).samefile(ROOT / "docs" / "policy.schema.json")


@pytest.mark.parametrize("text", GOOD)
def test_both_accept_a_good_policy(text):
    assert parse_policy(text, environ={}).plans
    assert wrongs(yaml.safe_load(text)) == []


@quick
@given(POLICIES)
def test_what_the_parser_accepts_the_schema_accepts(policy):
    assert wrongs(yaml.safe_load(policy.to_yaml())) == []


def readable():
    """The malformed policies that are YAML, as data without the places."""
    for text, *_ in MALFORMED:
        try:
            data = yaml.safe_load(text)
            json.dumps(data)
        except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError):
            continue
        yield text, data


def test_what_the_schema_refuses_the_parser_refuses_and_it_finds_most_mistakes():
    found = [text for text, data in readable() if wrongs(data)]
    for text in found:
        with pytest.raises(PolicyError):
            parse_policy(text, environ={})
    # The rest is about values that have the right shape, and only the parser's to judge.
    assert len(found) >= 90


@pytest.mark.parametrize(
    "data",
    [
        {"plans": [{"name": "a", "when": {"evry": 3}}]},
        {"plans": [{"name": "a", "when": "train_end", "keep": {"best": 2}}]},
        {"plans": [{"name": "a b", "when": "train_end"}]},
        {"plans": [{"name": "a", "when": {"every": {"steps": 1}, "steps": [2]}}]},
        {"plans": [], "version": 1},
        {"directory": "x"},
        {"plans": [{"name": "a", "when": "train_end", "verify": "lod"}]},
    ],
)
def test_both_refuse_a_bad_policy(data):
    assert wrongs(data)
    with pytest.raises(PolicyError):
        policy_from(data, environ={})
