"""Policies on top of others, defaults of environment variables, and the way back to YAML."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_savekit.errors import PolicyError
from keras_savekit.policy.plan import Limits, Policy, SavePlan
from keras_savekit.policy.resume import Resume
from keras_savekit.policy.rules.kinds import All, Best, EveryNth, Last, NewerThan, WithinSize
from keras_savekit.policy.triggers.external import BeforeDeadline, FileRequested, Signal
from keras_savekit.policy.triggers.metric import Improved, Reached
from keras_savekit.policy.triggers.schedule import (
    EpochEnd,
    Every,
    OnException,
    Steps,
    TrainBegin,
    TrainEnd,
)
from keras_savekit.policy.yaml.load import load_policy, parse_policy

quick = settings(deadline=None, derandomize=True, max_examples=150)

BASE = """\
directory: runs/base
on_failure: raise
plans:
  - name: latest
    when: every 100 steps
    keep: last 3
    verify: load
  - name: daily
    when: every 24 hours
"""


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    write("base.yaml", BASE)
    return write


def refused(path, environ=None):
    with pytest.raises(PolicyError) as caught:
        load_policy(path, environ or {})
    return str(caught.value)


def test_what_the_including_file_says_wins_and_plans_are_merged_by_name(write):
    policy = load_policy(
        write(
            "mine.yaml",
            "include: base.yaml\ndirectory: runs/mine\nplans:\n"
            "  - {name: latest, keep: last 1}\n  - {name: end, when: train_end}\n",
        )
    )
    assert (policy.directory, policy.on_failure) == ("runs/mine", "raise")
    assert policy.plans == (
        SavePlan(name="latest", when="every 100 steps", keep="last 1", verify="load"),
        SavePlan(name="daily", when="every 24 hours"),
        SavePlan(name="end", when="train_end"),
    )


def test_an_included_policy_alone_is_the_policy(write):
    assert load_policy(write("mine.yaml", "include: base.yaml\n")) == parse_policy(BASE)


def test_of_several_files_the_later_win_and_paths_are_beside_the_file_that_names_them(write):
    write("more/inner.yaml", "include: ../base.yaml\nresume: never\n")
    write("other.yaml", "resume: required\ndirectory: runs/${WHICH:-other}\n")
    mine = write("mine.yaml", "include: [more/inner.yaml, '${FILE}']\n")
    policy = load_policy(mine, {"FILE": "other.yaml"})
    assert policy.resume.mode == "required"
    assert (policy.directory, len(policy.plans)) == ("runs/other", 2)


@pytest.mark.parametrize(
    ("files", "messages"),
    [
        ({"a.yaml": "include: a.yaml\n"}, ['line 1, column 10: include: "a.yaml" includes itself']),
        ({"a.yaml": "include: b.yaml\n", "b.yaml": "include: a.yaml\n"}, ["b.yaml, line 1,"]),
        ({"a.yaml": "include: b.yaml\n", "b.yaml": "a: [\n"}, ["line 1", "b.yaml", "is not YAML"]),
        ({"a.yaml": "include: b.yaml\n", "b.yaml": ""}, ["is no policy"]),
        ({"a.yaml": "include: b.yaml\n", "b.yaml": "[1]"}, ["is no policy"]),
        ({"a.yaml": "include: .\n"}, ["is a directory"]),
        (
            {"a.yaml": "include: [b.yaml, c.yaml]\n",
             "b.yaml": "#" * 2**19 + "\non_failure: raise\n", "c.yaml": "#" * 2**19 + "\n"},
            ["line 1, column 19: include", "more than 1048576 characters are included"],
        ),
        (
            {"a.yaml": "include: base.yaml\nplans: [{name: latest, verify: lod}]\n"},
            ['a.yaml cannot be used (1 problem)\n  line 2, column 32: plans[0].verify', '"load"'],
        ),
        (
            {
                "a.yaml": "include: b.yaml\nplans: [{name: c, wen: 3}]\n",
                "b.yaml": "\nplans: [{name: d, when: every 0 steps}]\n",
            },
            ["b.yaml, line 2, column 25: plans[0].when", "line 2, column 19: plans[1].wen"],
        ),
        (
            {"a.yaml": "include: base.yaml\nplans: [{name: x, when: train_end}] \n? [a]\n: b\n"},
            ["line 3, column 3: a key must be a word"],
        ),
        (
            {"a.yaml": "include: base.yaml\nplans: [3, {name: [x]}, {when: train_end}]\n"},
            ["plans[2]: must be a mapping", "plans[3].name: must be text"],
        ),
    ],
)  # fmt: skip
def test_every_problem_is_told_with_the_file_it_is_in(write, files, messages):
    for name, text in files.items():
        write(name, text)
    told = refused(write("a.yaml", files["a.yaml"]))
    for message in messages:
        assert message in told


def test_includes_that_multiply_are_refused(write):
    for level in range(1, 9):
        write(f"{level}.yaml", f"include: [{level - 1}.yaml, ./{level - 1}.yaml]\n")
    write("0.yaml", BASE)
    assert "more than 50 files are included" in refused(write("9.yaml", "include: 8.yaml\n"))


@pytest.mark.parametrize(
    ("text", "environ", "value"),
    [
        ("${A:-b}", {}, "b"),
        ("${A:-b}", {"A": ""}, "b"),
        ("${A:-b}", {"A": "c"}, "c"),
        ("${A}x${B:-y}", {"A": "1"}, "1xy"),
        ("${A:-/with:-colon $x}", {}, "/with:-colon $x"),
        ("$${A} and ${A:-b}", {}, "${A} and b"),
        ("$A and $$", {}, "$A and $$"),
    ],
)
def test_variables_have_defaults_and_can_be_escaped(text, environ, value):
    policy = parse_policy(
        f"directory: '{text}'\nplans: [{{name: a, when: train_end}}]", "p", environ
    )
    assert policy.directory == value


NAMES = st.text(min_size=1, max_size=8).filter(lambda text: text.isprintable())
METRIC = {"metric": NAMES, "mode": st.sampled_from(["min", "max"])}
TRIGGERS = st.one_of(
    st.builds(
        Every, steps=st.integers(50, 99), offset=st.integers(0, 49), first=st.integers(0, 200)
    ),
    st.builds(Every, hours=st.floats(0.1, 9)),
    st.builds(
        Improved,
        **METRIC,
        min_delta=st.floats(0, 1),
        from_=st.none() | st.floats(-1, 1),
        at=st.sampled_from(["epoch", "step"]),
        keep=st.sampled_from(["first", "last"]),
    ),
    st.builds(
        Reached,
        condition=st.sampled_from(["a > 1", "`${x}` < 1 and not b == 2"]),
        fires=st.sampled_from(["once", "while_true"]),
    ),
    st.builds(EpochEnd, at=st.lists(st.integers(1, 99), min_size=1, unique=True)),
    st.builds(Steps, at=st.lists(st.integers(1, 99), min_size=1, unique=True)),
    st.builds(
        Signal,
        names=st.lists(st.sampled_from(["SIGTERM", "SIGINT"]), min_size=1, unique=True),
        then=st.sampled_from(["stop", "continue"]),
    ),
    st.builds(FileRequested, name=st.from_regex(r"[A-Za-z0-9_-]{1,9}", fullmatch=True)),
    st.builds(
        BeforeDeadline,
        at=st.sampled_from(["env END", "2030-01-01", "2000000000"]),
        margin=st.floats(0.1, 1e6),
    ),
    st.sampled_from([TrainBegin(), TrainEnd(), OnException()]),
)
RULES = st.one_of(
    st.builds(Last, count=st.integers(1, 9)),
    st.builds(Best, count=st.integers(1, 9), **METRIC, keep=st.sampled_from(["first", "last"])),
    st.builds(EveryNth, epochs=st.integers(1, 9)),
    st.builds(EveryNth, hours=st.floats(0.1, 9)),
    st.builds(NewerThan, age=st.floats(0.1, 1e6)),
    st.builds(WithinSize, size=st.integers(1, 10**15)),
    st.just(All()),
)


@st.composite
def plans(draw, name):
    save = draw(st.sampled_from(["model", "weights"]))
    fields = {
        "name": name,
        "save": save,
        "when": draw(st.lists(TRIGGERS, min_size=1, max_size=3, unique=True)),
        "keep": draw(RULES),
        "verify": draw(st.sampled_from(["bytes", "structure", "load"])),
        "when_busy": draw(st.sampled_from(["replace", "wait"])),
        "not_finite": draw(st.sampled_from(["skip", "save"])),
    }
    try:
        return SavePlan(**fields)
    except PolicyError:  # one metric with two modes
        return SavePlan(**{**fields, "keep": All()})


POLICIES = st.builds(
    Policy,
    directory=st.none() | NAMES,
    resume=st.builds(
        Resume,
        mode=st.sampled_from(["auto", "never", "required"]),
        on_mismatch=st.sampled_from(["error", "weights", "ignore"]),
    ),
    plans=st.tuples(plans("a"), plans("b")),
    limits=st.builds(
        Limits,
        queue=st.integers(1, 3),
        overhead=st.none() | st.floats(0.001, 0.9),
        disk=st.none() | st.integers(1, 10**15),
        free_space=st.none() | st.integers(1, 10**15),
    ),
    on_failure=st.sampled_from(["warn", "raise"]),
)


@quick
@given(POLICIES)
def test_a_policy_written_as_yaml_reads_back_as_the_same_policy(policy):
    assert parse_policy(policy.to_yaml(), environ={}) == policy
    assert Policy(**policy.model_dump(mode="json")) == policy
    assert policy.describe()
