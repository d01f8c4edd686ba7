"""savekit check, explain, schema, from-keras, pin and unpin."""

import json

import pytest
from test_policy_yaml import CONFIGS
from test_store_builders import add, prepared

from keras_savekit.cli import main as cli
from keras_savekit.policy.from_keras import from_keras
from keras_savekit.policy.yaml.schema import policy_schema

POLICY = """\
directory: runs/a
plans:
  - name: latest
    when: [every 200 steps, train_end, improved val_loss min]
    keep: [last 3, best 2 val_accuracy max]
"""


@pytest.fixture
def savekit(capsys):
    def call(*arguments):
        code = cli.run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return path


@pytest.mark.parametrize("command", ["check", "explain"])
def test_a_policy_is_printed_in_english(savekit, policy, command):
    code, out, err = savekit(command, policy)
    assert (code, err) == (0, "")
    assert (
        "latest: saves the whole model as .h5 every 200 steps, or when training ends, or when"
        " val_loss improves (lower is better); keeps the last 3 and the 2 best by val_accuracy"
        " (max); verifies structure" in out
    )


@pytest.mark.parametrize("command", ["check", "explain"])
def test_a_wrong_policy_ends_with_2_and_prints_every_line(savekit, tmp_path, command):
    path = tmp_path / "wrong.yaml"
    path.write_text("plans:\n  - name: a\n    wen: x\nresume: maybe\n")
    code, out, err = savekit(command, path)
    assert (code, out) == (2, "")
    assert 'line 3, column 5: plans[0].wen: unknown key; did you mean "when"?' in err
    assert "line 4, column 9: resume: must be auto or never or required" in err
    assert "Traceback" not in err


def test_explain_predicts_saves_and_the_checkpoints_that_are_kept(savekit, policy):
    code, out, _ = savekit("explain", policy, "--steps-per-epoch", 500, "--epochs", 20)
    assert code == 0
    assert "in 20 epochs of 500 steps:" in out
    assert "latest: 50 saves can be predicted" in out
    assert "every 200 steps: 50 saves, at steps 200, 400, 600," in out
    assert "..., 10000" in out
    assert "kept of these: at steps 9600, 9800, 10000" in out
    assert "not predictable: when val_loss improves (lower is better)" in out


def test_explain_predicts_time_from_the_seconds_of_a_step(savekit, tmp_path):
    path = tmp_path / "time.yaml"
    path.write_text("plans: [{name: a, when: every 1m}]")
    length = ("--steps-per-epoch", 100, "--epochs", 2)
    assert "0 saves" in savekit("explain", path, *length)[1]
    assert "at steps 60, 120, 180" in savekit("explain", path, *length, "--step-seconds", 1)[1]


@pytest.mark.parametrize(
    "options", [["--epochs", 3], ["--steps-per-epoch", 3], ["--epochs", 0, "--steps-per-epoch", 1]]
)
def test_an_incomplete_or_empty_length_is_wrong_usage(savekit, policy, options):
    code, _, err = savekit("explain", policy, *options)
    assert code == 2
    assert "Usage" in err


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_policy_to_copy_can_be_explained(savekit, path):
    code, out, _ = savekit("explain", path, "--steps-per-epoch", 50, "--epochs", 40)
    assert code == 0
    assert "kept of these" in out


def test_the_schema_is_printed(savekit):
    code, out, _ = savekit("schema")
    assert (code, json.loads(out)) == (0, policy_schema())


def test_a_stock_callback_is_printed_as_a_policy(savekit):
    text = "ModelCheckpoint(filepath='a/b.h5', save_best_only=True)"
    assert savekit("from-keras", text) == (0, from_keras(text).to_yaml(), "")
    code, out, err = savekit("from-keras", "EarlyStopping(patience=3)")
    assert (code, out) == (2, "")
    assert '"EarlyStopping" is not known' in err


def test_a_checkpoint_is_pinned_by_its_name_or_a_link_and_unpinned(savekit, tmp_path):
    run = prepared(tmp_path / "run")
    name = add(run, 5)
    run.link("latest", name)
    assert savekit("pin", run.path, "latest") == (
        0,
        f"{name} is pinned; no policy removes it\n",
        "",
    )
    assert run.open(name).pinned
    assert savekit("unpin", run.path, name) == (0, f"{name} is no longer pinned\n", "")
    assert not run.open(name).pinned
    code, _, err = savekit("pin", run.path, "best")
    assert code == 1
    assert "not the name of a checkpoint" in err
