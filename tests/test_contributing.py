"""The examples in CONTRIBUTING.md work as they are written."""

import re
import sys
import types
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_store_builders import add, prepared

from keras_savekit.base.moment import Moment, Tick
from keras_savekit.policy.plan import decide, horizon
from keras_savekit.policy.rules import base as rules
from keras_savekit.policy.rules.base import Record
from keras_savekit.policy.rules.prune import prune
from keras_savekit.policy.triggers import base as triggers
from keras_savekit.policy.triggers.registry import parse_trigger
from keras_savekit.policy.yaml.load import parse_policy

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def section(title):
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.fixture
def made(monkeypatch):
    """The module that an example shows, as if it were in its file."""

    def make(title):
        (code,) = re.findall(r"```python\n(.*?)```", section(title), re.DOTALL)
        (place,) = re.findall(r"^\| `([^`]+)` \| new", section(title), re.MULTILINE)
        name = place.removesuffix(".py").replace("/", ".")
        module = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)  # where pydantic looks for annotations
        for kinds in (triggers.KINDS, rules.KINDS):  # which `@register` fills
            for key in ("doubling", "first"):
                monkeypatch.setitem(kinds, key, None)
                del kinds[key]
        exec(compile(code, place, "exec"), vars(module))
        return module

    return make


def policy(when="train_end", keep="all"):
    return parse_policy(f"plans: [{{name: p, when: [{when}], keep: {keep}}}]")


def test_the_trigger_is_added_as_the_example_says(made, monkeypatch):
    kind = made("Example: add a trigger").Doubling
    read = policy(when="doubling")
    assert read.plans[0].when == (parse_trigger("doubling"),) == (kind(),)
    assert parse_policy(read.to_yaml()) == read
    fired, memory = [], {}
    for step in range(1, 20):
        decision = decide(read, Tick(Moment(step=step - 1), Moment(step=step), "step", memory))
        fired += [(step, due.reasons) for due in decision.due]
        expected = 1 << step.bit_length()
        assert horizon(read, Moment(step=step), 1).step == expected
    assert fired == [(step, (f"the step passed {step}",)) for step in (1, 2, 4, 8, 16)]
    assert "at steps 1, 2, 4, 8, and so on" in read.describe()


def test_the_trigger_of_the_example_fires_after_a_resume_as_without_one(made):
    trigger = made("Example: add a trigger").Doubling()
    assert trigger.reason(Tick(Moment(step=3), Moment(step=9), "epoch_end")) == "the step passed 8"
    assert trigger.reason(Tick(Moment(step=9), Moment(step=15), "epoch_end")) is None


def test_the_rule_is_added_as_the_example_says(made, monkeypatch):
    kind = made("Example: add a rule of `keep`").First
    for spelling in ("first 2", "{first: 2}"):
        (plan,) = policy(keep=spelling).plans
        assert plan.keep == (kind(count=2),)
    records = [Record(f"{step:09d}-p", "p", step, {}, verified=True) for step in (1, 2, 3, 4)]
    pruning = prune(records, {"p": plan.keep})
    assert pruning.keep == {
        "000000001-p": ("first 2",),
        "000000002-p": ("first 2",),
        "000000004-p": ("newest verified",),
    }
    assert pruning.remove == {"000000003-p": "not in first 2"}


def test_the_command_is_added_as_the_example_says(made, tmp_path):
    command = made("Example: add a `savekit` command").command
    run = prepared(tmp_path)
    add(run, 1)
    add(run, 2)
    shown = CliRunner().invoke(command, [str(tmp_path)])
    assert (shown.exit_code, shown.output) == (0, "200\n")


def test_every_file_that_the_page_names_exists_unless_it_is_new():
    for line in TEXT.splitlines():
        if line.startswith("| `") and "new:" not in line and not line.startswith("| `make"):
            for name in re.findall(r"`([^`]+)`", line.split("|")[1]):
                assert (ROOT / name).exists(), name
    for name in re.findall(r"`((?:keras_savekit|tests|docs)/[\w/]+\.\w+)`", TEXT):
        if f"`{name}` | new" not in TEXT:
            assert (ROOT / name).exists(), name


def test_every_make_target_that_the_page_names_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", TEXT, re.MULTILINE))
    assert "mutants" in named <= targets


def test_every_test_that_holds_a_promise_of_the_security_page_exists():
    text = (ROOT / "SECURITY.md").read_text()
    promised = text.split("## What is promised")[1].split("## What is not promised")[0]
    rows = [line for line in promised.splitlines() if line.startswith("| **")]
    assert len(rows) >= 10
    for row in rows:
        held_by = re.findall(r"`(tests/[\w/]+\.py)`", row.split("|")[-2])
        assert held_by, row
        assert all((ROOT / name).exists() for name in held_by), row
