"""Values in logs, and the names that a policy has for them."""

import math

import pytest
from pydantic import TypeAdapter, ValidationError

from keras_savekit.base.logs import number, numbers, read_logs, value_text, why_absent
from keras_savekit.base.moment import Moment, Tick
from keras_savekit.errors import PolicyError
from keras_savekit.policy.fields import Ranking
from keras_savekit.policy.rules.base import Record
from keras_savekit.policy.rules.kinds import rank
from keras_savekit.policy.rules.registry import parse_rule
from keras_savekit.policy.triggers.condition import parse_condition
from keras_savekit.policy.triggers.metric import Improved
from keras_savekit.policy.yaml.load import parse_policy

LOGS = {
    "loss": 0.5,
    "count": 3,
    "good": True,
    "huge": 10**400,
    "debt": -(10**400),
    "one": (0.25,),
    "f1": (0.1, 0.2, math.nan),
    "cm": ((1, 2), (3, 4)),
    "scores": {"a": 0.7, "deep": ({"b": 9},)},
    "note": "warming up",
    "none": None,
    "empty": (),
    "odd[0]": 7.0,
    "odd[1]": (8.0, 9.0),
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loss", 0.5),
        ("count", 3.0),
        ("good", 1.0),
        ("huge", math.inf),
        ("debt", -math.inf),
        ("one", 0.25),
        ("one[0]", 0.25),
        ("loss[0]", 0.5),
        ("f1[0]", 0.1),
        ("f1[01]", 0.2),
        ("cm[1][0]", 3.0),
        ("scores[a]", 0.7),
        ("scores[deep][0][b]", 9.0),
        ("odd[0]", 7.0),
        ("odd[1][1]", 9.0),
    ],
)
def test_a_name_leads_to_one_number(name, value):
    assert number(LOGS, name) == value
    assert why_absent(LOGS, name) == ""


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("f1", "f1 has 3 values; name one, such as f1[0]"),
        ("cm", "cm has 4 values; name one, such as cm[0][0]"),
        ("cm[1]", "cm[1] has 2 values; name one, such as cm[1][0]"),
        ("scores", "scores has 2 values; name one, such as scores[a]"),
        ("f1[3]", "f1[3] is not there: f1 has 3 values, f1[0] to f1[2]"),
        ("f1[-1]", "f1[-1] is not there: f1 has 3 values, f1[0] to f1[2]"),
        ("f1[0][1]", "f1[0][1] is not there: f1[0] is one number"),
        ("loss[1]", "loss[1] is not there: loss is one number"),
        ("scores[A]", 'scores[A] is not there: did you mean "a"?'),
        ("note[0]", 'note[0] is not there: note is not a number but text, "warming up"'),
        ("note", 'note is not a number but text, "warming up"'),
        ("none", "none is None"),
        ("empty", "empty is empty"),
        ("empty[0]", "empty[0] is not there: empty is empty"),
    ],
)
def test_what_is_no_single_number_is_absent_for_one_clear_reason(name, why):
    assert number(LOGS, name) is None
    assert why_absent(LOGS, name) == why
    assert why_absent(LOGS, name, came=LOGS, validation="later") == why


def absent(name, rest):
    return f"the policy uses {name}, which was not reported by the end of an epoch: {rest}"


@pytest.mark.parametrize(
    ("name", "logs", "given", "why"),
    [
        ("los", {"loss": 1.0}, {}, absent("los", 'did you mean "loss"?')),
        ("f2[1]", {"f1": 1.0}, {}, absent("f2[1]", "fit reported f1")),
        ("vf1[1]", {"vf2": 1}, {}, absent("vf1[1]", 'did you mean "vf2[1]"?')),
        ("mae", {"loss": 1, "b": 2}, {}, absent("mae", "fit reported b, loss")),
        ("mae", {}, {}, absent("mae", "fit reported nothing")),
        ("mae", {"loss": 1}, {"came": {"mae"}}, ""),
        ("f1[0]", {"loss": 1}, {"came": {"f1"}}, ""),
        ("a[0]", {"loss": 1}, {"came": {"a[0]"}}, ""),
        ("val_x", {"loss": 1}, {"validation": "later"}, ""),
        ("x", {"loss": 1}, {"validation": "later"}, absent("x", "fit reported loss")),
        (
            "val_x",
            {"loss": 1},
            {"validation": "none"},
            absent("val_x", "fit reported loss; metrics with val_ need validation_data"),
        ),
    ],
)  # fmt: skip
def test_a_metric_that_does_not_come_is_named_unless_it_may_still_come(name, logs, given, why):
    assert why_absent(logs, name, **given) == why


def test_every_number_of_a_value_is_found():
    assert list(numbers(({"a": 1, "b": (2, "x", None)}, 3.5))) == [1, 2, 3.5]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.1235"),
        (True, "1"),
        (None, "none"),
        ("a word", "a word"),
        ("x" * 50, "x" * 37 + "..."),
        ((0.5, math.nan), "[0.5 nan]"),
        (tuple(range(9)), "[0 1 2 3 ... 9 values]"),
        (((1, 2), (3, 4)), "[[1 2] [3 4]]"),
        ({"a": 1, "b": "c"}, "{a=1 b=c}"),
    ],
)
def test_a_value_is_shown_in_a_few_characters(value, text):
    assert value_text(value) == text


def test_logs_are_read_from_json_and_become_tuples():
    read = read_logs({"a": [1, [2.5, None]], "b": {"c": "NaN"}, "d": "x", "e": True})
    assert math.isnan(read["b"].pop("c"))
    assert read == {"a": (1, (2.5, None)), "b": {}, "d": "x", "e": True}


@pytest.mark.parametrize(
    ("logs", "what"),
    [
        ([1], "must be a mapping"),
        ({1: 2.0}, "a name in the logs is not text"),
        ({"a": {1: 2.0}}, "a name in the logs is not text"),
        ({"a": b"x"}, "a bytes is not a value of a log"),
    ],
)
def test_logs_that_no_json_holds_are_refused(logs, what):
    with pytest.raises(ValidationError, match=what):
        TypeAdapter(Moment).validate_python({"logs": logs})


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("f1[0] < f1[1]", True),
        ("cm[1][1] == 4 and scores[a] > 0.5", True),
        ("`odd[1]`[0] >= 8", True),
        ("f1[2] > 0", False),
        ("f1 > 0", None),
        ("f1[9] > 0 or loss < 1", None),
    ],
)
def test_a_condition_compares_single_values(condition, holds):
    assert parse_condition(condition).holds(LOGS) is holds


def test_a_vector_never_improves_and_its_values_do():
    tick = Tick(Moment(), Moment(epoch=1, logs=LOGS), "epoch_end")
    assert Improved(metric="f1", mode="max").reason(tick) is None
    assert Improved(metric="f1[2]", mode="max").reason(tick) is None
    assert Improved(metric="f1[1]", mode="max").reason(tick) == "f1[1] has its first value, 0.2"


def test_the_best_goes_by_one_value_of_a_vector():
    def record(step, *values):
        return Record(str(step), "p", step, {"f1": values}, verified=True)

    records = [record(1, 0.1, 0.9), record(2, 0.2, 0.8), record(3, math.nan, 1.0)]

    def ranked(metric):
        return [record.name for record in rank(iter(records), Ranking(metric, "max", "first"))]

    assert ranked("f1[0]") == ["2", "1"]
    assert ranked("f1[1]") == ["3", "1", "2"]
    assert ranked("f1") == []
    rule = parse_rule("best 1 f1[0] max")
    assert rule.chosen(records, 0) == {"2": "best 1 f1[0] max: 0.2"}


def test_yaml_that_takes_a_bracket_for_its_own_says_to_quote_the_name():
    text = "plans: [{name: a, when: train_end, keep: {best: 1, metric: f1[0], mode: max}}]"
    with pytest.raises(PolicyError, match="put a name that has \\[ \\] in it in quotes") as error:
        parse_policy(text)
    assert "line 1, column 62" in str(error.value)
    (plan,) = parse_policy(text.replace("f1[0]", "'f1[0]'")).plans
    assert plan.metrics() == {"f1[0]"}
