"""The reference of the YAML shape says what the code does."""

import re
from pathlib import Path

import pytest

from keras_savekit.policy.plan import Limits, Policy, SavePlan
from keras_savekit.policy.rules.registry import read_rules
from keras_savekit.policy.triggers.base import KINDS
from keras_savekit.policy.triggers.registry import parse_trigger, read_triggers
from keras_savekit.policy.yaml.load import parse_policy

TEXT = (Path(__file__).parent.parent / "docs" / "policy.md").read_text()


def section(title):
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(title):
    lines = [line for line in section(title).splitlines() if line.startswith("| ")][1:]
    return [
        [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in lines
    ]


@pytest.mark.parametrize(
    ("title", "kind", "more"),
    [("The file", Policy, {"include"}), ("A plan", SavePlan, set()), ("Limits", Limits, set())],
)
def test_every_key_is_in_its_table_and_no_other(title, kind, more):
    assert {row[0].strip("`") for row in rows(title)} == set(kind.model_fields) | more


def test_every_trigger_is_in_the_table_and_its_two_spellings_say_the_same():
    told = set()
    for yaml, short, _ in rows("Triggers"):
        for each in yaml.split(", `"):
            text = each.strip("`")
            if "..." not in text:
                (trigger,) = parse_policy(f"plans: [{{name: a, when: [{text}]}}]").plans[0].when
                told.add(trigger.key)
            if short and "reached" not in text:
                assert parse_trigger(short.strip("`")) == trigger
    assert told | {"any", "all", "not"} == set(KINDS)


def test_every_rule_is_in_the_table_and_its_two_spellings_say_the_same():
    for yaml, short, _ in rows("Rules of `keep`"):
        (plan,) = parse_policy(
            f"plans: [{{name: a, when: train_end, keep: {yaml.strip('`')}}}]"
        ).plans
        assert read_rules(short.strip("`")) == plan.keep


def test_the_short_strings_of_the_migration_table_can_be_read():
    for when in re.findall(r"`when: ([^`]+)`", section("From stock callbacks")):
        assert read_triggers(when)
    for keep in re.findall(r"`keep: ([^`]+)`", section("From stock callbacks")):
        assert read_rules(keep)
