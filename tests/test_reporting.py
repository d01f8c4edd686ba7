"""What a user sees of a training: facts by logging, problems by warnings at the user's line."""

import inspect
import logging
import os
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest
from training_builders import data, fit, model, plan, policy

import keras_savekit as sk
from keras_savekit.base.user_warning import warn
from keras_savekit.errors import SaveError
from keras_savekit.fit.reporting import Reporter, combined, count_of, foreign_entries

ROOT = Path(__file__).parent.parent
NOTHING_LEFT = "nothing left to do: 2 of 2 epochs are trained"


@contextmanager
def no_handlers():
    """As in a script that does not configure logging; pytest does, for each phase of a test."""
    package = logging.getLogger("keras_savekit")
    loggers = (logging.root, package)
    before = [(list(logger.handlers), logger.level) for logger in loggers]
    logging.root.handlers, package.handlers = [], []
    package.setLevel(logging.NOTSET)
    try:
        yield package
    finally:
        for logger, (handlers, level) in zip(loggers, before, strict=True):
            logger.handlers = handlers
            logger.setLevel(level)


def test_facts_are_bare_lines_on_stdout_without_any_setup(capsys):
    with no_handlers():
        Reporter(quiet=False).info("resumed from 5\n  not exact: it is so")
        Reporter(quiet=False).info("once more")
    found = capsys.readouterr()
    assert found.out == "resumed from 5\n  not exact: it is so\nonce more\n"
    assert found.err == ""


def test_facts_of_a_quiet_fit_are_not_shown(capsys):
    with no_handlers():
        Reporter(quiet=True).info("resumed")
    assert capsys.readouterr().out == ""


def test_a_program_that_configures_logging_decides_what_is_shown(capsys):
    with no_handlers():
        Reporter(quiet=False)
        logging.root.handlers.append(logging.NullHandler())
        Reporter(quiet=False).info("resumed")
    assert capsys.readouterr().out == ""


def test_a_handler_of_the_package_is_left_alone(capsys):
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    with no_handlers() as package:
        package.addHandler(handler)
        package.setLevel(logging.INFO)
        Reporter(quiet=True).info("resumed")
    assert [(record.getMessage(), record.name) for record in records] == [
        ("resumed", "keras_savekit.fit")
    ]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("verbose", [0, 1, 2])
def test_the_verbosity_of_fit_decides_whether_facts_are_shown(tmp_path, capsys, verbose):
    def train():
        on = data()
        kit = sk.SaveKit(policy(plan("train_end")), directory=tmp_path, data=on)
        fit(model(), kit, on=on, verbose=verbose)

    with no_handlers():
        train()
        capsys.readouterr()
        train()
    shown = capsys.readouterr().out
    assert (NOTHING_LEFT in shown) is bool(verbose)
    assert ("resumed from 000000012-p" in shown) is bool(verbose)


def test_a_subject_is_reported_once(caplog):
    caplog.set_level(logging.INFO, "keras_savekit")
    report = Reporter(quiet=False)
    report.info_once("overhead", "it costs")
    report.info_once("overhead", "it costs more")
    assert caplog.messages == ["it costs"]
    report.warn_once("metric a", "")
    with pytest.warns(sk.SavekitWarning, match="a is missing"):
        report.warn_once("metric a", "a is missing")
    report.warn_once("metric a", "a is missing again")  # else an error, as pytest is configured


def here():
    return inspect.currentframe().f_back.f_lineno


def test_a_warning_points_at_the_call_of_fit(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "mine").write_text("")
    kit, made, on = sk.SaveKit(policy(), directory=tmp_path), model(), data()
    line = here() + 2
    with pytest.warns(sk.SavekitWarning, match="left alone") as found:
        made.fit(on, verbose=0, shuffle=False, callbacks=[kit])
    assert (found[0].filename, found[0].lineno) == (__file__, line)


def test_a_warning_of_the_background_points_at_the_call_of_fit_too(tmp_path):
    limited = policy(plan("every 4 steps"), limits={"disk": "10kB"})
    kit, made, on = sk.SaveKit(limited, directory=tmp_path), model(), data()
    line = here() + 2
    with pytest.warns(sk.SavekitWarning, match="p is not saved") as found:
        made.fit(on, verbose=0, shuffle=False, callbacks=[kit])
    assert {(warning.filename, warning.lineno) for warning in found} == {(__file__, line)}


def test_a_warning_without_a_users_frame_is_still_issued():
    namespace = {"__name__": "keras_savekit.tested", "warn": warn}
    exec("def call(): warn('no user')", namespace)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        namespace["call"]()
    assert (found[0].filename, str(found[0].message)) == (__file__, "no user")


def test_several_problems_become_one_error_with_all_of_them():
    cause = OSError("no space")
    first = SaveError("a failed", "/run", "free some")
    first.__cause__ = cause
    error = combined([first, SaveError("b failed")])
    assert (error.what, error.where, error.remedy) == (
        "a failed",
        "/run",
        "free some\n  also: b failed",
    )
    assert error.__cause__ is cause


def test_entries_of_the_user_are_listed_up_to_five():
    assert foreign_entries([], "place") == ""
    assert foreign_entries(["a", "b"], "place").endswith("in place: a, b")
    assert foreign_entries(list("abcdefg"), "place").endswith("a, b, c, d, e and 2 more")
    assert (count_of(1), count_of(2)) == ("1 checkpoint", "2 checkpoints")


@pytest.mark.slow
def test_a_script_shows_facts_by_default(tmp_path):
    script = (
        "import keras, numpy as np, keras_savekit as sk\n"
        "model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])\n"
        "model.compile('sgd', 'mse')\n"
        f"kit = sk.FullModelSaver({str(tmp_path)!r}, 'every epoch', verify='bytes')\n"
        "x = np.zeros((4, 1))\n"
        "for _ in range(2): model.fit(x, x, epochs=2, callbacks=[kit])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True, text=True, timeout=240, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert NOTHING_LEFT in done.stdout.splitlines()
