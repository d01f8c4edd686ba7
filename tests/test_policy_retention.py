"""Which checkpoints stay: examples for each rule, and the laws no rule can break."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_savekit.errors import PolicyError
from keras_savekit.policy.fields import Ranking
from keras_savekit.policy.rules.base import Record
from keras_savekit.policy.rules.kinds import All, Best, Last, rank
from keras_savekit.policy.rules.prune import prune
from keras_savekit.policy.rules.registry import parse_rule, read_rules

quick = settings(deadline=None, derandomize=True, max_examples=150)


def record(step, plan="p", *, verified=True, busy=False, **logs):
    return Record(f"{step:09d}-{plan}", plan, step, logs, verified, busy)


def kept(pruning):
    return [int(name.split("-")[0]) for name in pruning.keep]


RECORDS = [record(step, loss=loss) for step, loss in [(1, 0.9), (2, 0.2), (3, 0.5), (4, 0.2)]]


@pytest.mark.parametrize(
    ("rules", "steps"),
    [
        ([Last(count=1)], [4]),
        ([Last(count=3)], [2, 3, 4]),
        ([Last(count=9)], [1, 2, 3, 4]),
        ([Best(count=1, metric="loss", mode="min")], [2, 4]),
        ([Best(count=1, metric="loss", mode="max")], [1, 4]),
        ([Best(count=2, metric="loss", mode="max")], [1, 3, 4]),
        ([Best(count=2, metric="other", mode="max")], [4]),
        ([Last(count=2), Best(count=1, metric="loss", mode="max")], [1, 3, 4]),
        ([All()], [1, 2, 3, 4]),
    ],
)
def test_rules_keep_their_union_and_the_newest_verified(rules, steps):
    assert kept(prune(RECORDS, {"p": tuple(rules)})) == steps


def test_every_checkpoint_that_stays_and_goes_says_why():
    rules = {"p": (Last(count=1), Best(count=1, metric="loss", mode="min"))}
    records = [*RECORDS, record(5, verified=False), record(6, "old"), record(3, "q", busy=True)]
    pruning = prune(records, {**rules, "q": (Last(count=1),)})
    assert pruning.keep == {
        "000000002-p": ("best 1 loss min: 0.2",),
        "000000003-q": ("in use", "last 1"),
        "000000004-p": ("last 1",),
        "000000005-p": ("not yet verified",),
        "000000006-old": ("newest verified", 'the policy has no plan "old"'),
    }
    assert pruning.remove == dict.fromkeys(
        ("000000001-p", "000000003-p"), "not in last 1, best 1 loss min"
    )


def test_removals_come_oldest_first():
    pruning = prune(reversed(RECORDS), {"p": (Last(count=1),)})
    assert list(pruning.remove) == [each.name for each in RECORDS[:3]]


def test_each_plan_counts_for_itself():
    records = [record(step, plan) for step in range(1, 5) for plan in "ab"]
    pruning = prune(records, {"a": (Last(count=1),), "b": (Last(count=2),)})
    assert list(pruning.keep) == ["000000003-b", "000000004-a", "000000004-b"]


def test_unverified_checkpoints_do_not_push_out_verified_ones():
    records = [record(1), record(2), record(3, verified=False), record(4, verified=False)]
    assert kept(prune(records, {"p": (Last(count=2),)})) == [1, 2, 3, 4]


def test_a_value_that_is_not_finite_is_never_best():
    records = [record(1, loss=math.nan), record(2, loss=-math.inf), record(3, loss=5.0), record(4)]
    assert kept(prune(records, {"p": (Best(count=3, metric="loss", mode="min"),)})) == [3, 4]


def test_a_plan_whose_rules_are_empty_keeps_its_checkpoints():
    assert kept(prune(RECORDS, {"p": ()})) == [1, 2, 3, 4]


def test_pruning_nothing_gives_nothing():
    pruning = prune([], {"p": (Last(count=1),)})
    assert (pruning.keep, pruning.remove) == ({}, {})


@pytest.mark.parametrize(
    ("records", "mode", "step"),
    [
        (RECORDS, "min", 2),
        (RECORDS, "max", 1),
        ([*RECORDS, record(9, loss=0.0, verified=False)], "min", 2),
        ([record(1, loss=math.nan), record(2)], "min", None),
        ([record(1, loss=math.inf), record(2, loss=3)], "max", 2),
        ([], "min", None),
    ],
)
def test_the_best_is_verified_and_of_equals_the_earlier(records, mode, step):
    best = next(iter(rank(records, Ranking("loss", mode, "first"))), None)
    assert (best and best.step) == step


RULE = st.one_of(
    st.builds(Last, count=st.integers(1, 4)),
    st.builds(Best, count=st.integers(1, 4), metric=st.sampled_from("xy"), mode=st.just("min")),
    st.just(All()),
)
RULES = st.dictionaries(st.sampled_from("abc"), st.lists(RULE, max_size=3).map(tuple))
HISTORY = st.lists(
    st.builds(
        record,
        st.integers(0, 30),
        st.sampled_from("abcd"),
        verified=st.booleans(),
        busy=st.booleans(),
        x=st.floats(width=16),
    ),
    max_size=15,
    unique_by=lambda each: each.name,
)


@quick
@given(HISTORY, RULES, st.data())
def test_keep_and_remove_are_disjoint_and_together_all_in_any_order(records, rules, data):
    given_before = list(records)
    pruning = prune(records, rules)
    assert records == given_before
    assert set(pruning.keep) & set(pruning.remove) == set()
    assert set(pruning.keep) | set(pruning.remove) == {each.name for each in records}
    assert all(pruning.keep.values())
    assert all(pruning.remove.values())
    assert prune(data.draw(st.permutations(records)), rules) == pruning


@quick
@given(HISTORY, RULES)
def test_no_rule_removes_what_must_stay(records, rules):
    keep = prune(records, rules).keep
    verified = [each for each in records if each.verified]
    newest = max(verified, key=lambda each: (each.step, each.name), default=None)
    for each in records:
        must_stay = each is newest or each.busy or not each.verified or not rules.get(each.plan)
        assert not must_stay or each.name in keep


@quick
@given(HISTORY, RULES)
def test_pruning_twice_removes_nothing_more(records, rules):
    keep = prune(records, rules).keep
    again = prune([each for each in records if each.name in keep], rules)
    assert again.remove == {}


@quick
@given(HISTORY, RULES, RULE)
def test_another_rule_never_removes_more(records, rules, rule):
    more = {plan: (*some, rule) if some else some for plan, some in rules.items()}
    assert set(prune(records, more).remove) <= set(prune(records, rules).remove)


@quick
@given(RULE)
def test_a_rule_reads_back_what_it_describes_and_writes(rule):
    assert parse_rule(rule.describe()) == rule
    assert read_rules(rule.model_dump(mode="json")) == (rule,)


BEST = Best(count=2, metric="loss", mode="min")


@pytest.mark.parametrize(
    ("shape", "rules"),
    [
        ("all", (All(),)),
        ("last 3", (Last(count=3),)),
        ("best 2 loss min", (BEST,)),
        ({"last": 3}, (Last(count=3),)),
        ({"best": "2", "metric": "loss", "mode": "min"}, (BEST,)),
        ({"last": 3, "best": 2, "metric": "loss", "mode": "min"}, (Last(count=3), BEST)),
        (["last 3", {"best": 2, "metric": "loss", "mode": "min"}], (Last(count=3), BEST)),
        ([{"last": 3, "best": 2, "metric": "loss", "mode": "min"}], (Last(count=3), BEST)),
        (
            ["best 2 loss min", "best 2 acc max"],
            (BEST, Best(count=2, metric="acc", mode="max")),
        ),
        (BEST, (BEST,)),
    ],
)
def test_rules_have_several_spellings(shape, rules):
    assert read_rules(shape) == rules


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("", "must not be empty"),
        ("lst 3", 'did you mean "last"'),
        ("last", 'must be written like "last 3", got "last"'),
        ("forever and ever", 'known: "last 3"'),
        ("last 0", "last must be 1 or more, got 0"),
        ("last x", 'last must be a number, got "x"'),
        ("best 2 loss", 'must be written like "best 2 val_loss min"'),
        ("best 2 loss mni", 'mode must be min or max, got "mni"; did you mean "min"'),
        ("all 3", 'must be written like "all"'),
        ("every 2 big epochs", 'must be written like "every 50 epochs"'),
        (3, "write {last: 3}"),
        (True, "got true"),
        (None, "got nothing"),
        ({}, "got a mapping"),
        ([], "write all to keep everything"),
        ({"lats": 3}, 'lats: unknown key; did you mean "last"'),
        ({"last": 0}, "last: must be 1 or more, got 0"),
        ({"best": 2}, "metric: is missing"),
        ({"best": 2, "metric": "loss"}, "mode: is missing: which way is better"),
        ({"last": 2, "metric": "loss"}, "metric needs best"),
        (["all", "last 3"], "all keeps everything"),
        (["last 2", "last 3"], "there is such a rule already"),
        (["best 2 loss min", "best 3 loss max"], "there is such a rule already"),
        (["last 2", "last 2"], "[1]: says the same as entry 1"),
        (["last 2", {"best": 0, "metric": "loss", "mode": "min"}], "[1].best: must be 1 or more"),
    ],
)
def test_a_wrong_rule_is_told_with_its_remedy(shape, message):
    with pytest.raises(PolicyError) as caught:
        read_rules(shape)
    assert message in str(caught.value)
