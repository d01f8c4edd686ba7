"""A checkpoint is restored outside of `fit`, and `resume-plan` says which one `fit` would use."""

import json
import logging

import keras
import numpy as np
import pytest
from training_builders import Interrupt, data, fit, model, names, plan, policy

import keras_savekit as sk
from keras_savekit.cli import main as cli
from keras_savekit.store.prepare import prepare
from keras_savekit.store.run import RunDirectory

ASKED = policy(
    plan("every 1 steps", "latest", when_busy="wait"),
    plan("every 4 steps", "best", keep="best 1 loss min", when_busy="wait"),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    on, made = data(), model()
    fit(made, sk.SaveKit(ASKED, directory=directory, data=on), on=on, epochs=2)
    return directory, made


@pytest.fixture
def run(trained, tmp_path):
    import shutil

    shutil.copytree(trained[0], tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def variables(made):
    return [each.numpy() for each in [*made.variables, *made.optimizer.variables]]


def test_the_newest_checkpoint_is_restored_whole(trained):
    directory, made = trained
    other = model(seed=99)
    restored = sk.restore(other, directory)
    assert (restored.name, restored.level, restored.reasons) == ("000000012-latest", "exact", ())
    assert (restored.moment.epoch, restored.moment.batch, restored.moment.step) == (2, 0, 12)
    for ours, theirs in zip(variables(made), variables(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_best_one_and_one_by_name_are_restored(trained):
    directory, _ = trained
    best = (directory / "best").resolve().name
    assert sk.restore(model(), directory, "best").name == best
    assert sk.restore(model(), directory, "000000003-latest").moment.batch == 3


def test_a_model_that_is_not_compiled_gets_its_weights_only(trained):
    directory, made = trained
    other = keras.Sequential.from_config(made.get_config())
    restored = sk.restore(other, directory)
    assert restored.level == "weights only"
    assert restored.reasons == ("the model is not compiled, so it has no optimizer",)
    np.testing.assert_equal(other.get_weights(), made.get_weights())


def test_restoring_reads_only(run):
    def everything():
        return {path.relative_to(run): path.stat().st_mtime_ns for path in sorted(run.rglob("*"))}

    before = everything()
    sk.restore(model(), run)
    assert everything() == before


def test_a_damaged_newest_one_is_skipped_and_stays(run):
    path = run / "checkpoints" / "000000012-latest" / "manifest.json"
    path.write_text("{}")
    restored = sk.restore(model(), run)
    assert restored.name == "000000012-best"
    assert restored.passed_over[0].startswith("000000012-latest: ")
    assert path.exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"units": 5}, r"(?s)another architecture.*float32\[3, 4\].*float32\[3, 5\]"),
        (
            {"optimizer": keras.optimizers.Adam(0.5)},
            "the optimizer's learning_rate was 0.001[0-9]*, is 0.5",
        ),
        ({"optimizer": "sgd"}, "another optimizer"),
        (
            {"optimizer": keras.optimizers.Adam(beta_1=0.5)},
            "the optimizer's beta_1 was 0.9, is 0.5",
        ),
    ],
)
def test_what_does_not_fit_is_named_and_the_model_is_unchanged(trained, changed, message):
    other = model(seed=99, **changed)
    before = other.get_weights()
    with pytest.raises(sk.MismatchError, match=message):
        sk.restore(other, trained[0])
    np.testing.assert_equal(other.get_weights(), before)


def test_a_fit_with_another_learning_rate_is_refused_before_the_first_step(run):
    on = data()
    kit = sk.SaveKit(ASKED, directory=run, data=on)
    with pytest.raises(sk.MismatchError, match=r"learning_rate was 0.001[0-9]*, is 0.5"):
        fit(model(optimizer=keras.optimizers.Adam(0.5)), kit, on=on, epochs=3)


def test_a_learning_rate_that_a_callback_lowered_is_no_other_one(tmp_path):
    def resume(made, epochs):
        on = data()
        kit = sk.SaveKit(ASKED, directory=tmp_path, data=on)
        slower = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
        fit(made, kit, slower, on=on, epochs=epochs)
        return kit.resumed

    made = model()
    resume(made, 1)
    assert resume(made, 2).level == "exact"  # the same live model, whose rate is lower now
    assert resume(model(seed=9), 3).level == "exact"  # the code once more, as it was written


def test_a_directory_without_a_run_or_a_checkpoint_says_so(tmp_path):
    with pytest.raises(sk.DirectoryError, match="not the directory of a run"):
        sk.restore(model(), tmp_path)
    prepare(RunDirectory(tmp_path))
    with pytest.raises(sk.ResumeError, match="there is no checkpoint"):
        sk.restore(model(), tmp_path)
    with pytest.raises(sk.ResumeError, match="no checkpoint is the best yet"):
        sk.restore(model(), tmp_path, "best")
    with pytest.raises(sk.CheckpointError, match="there is no such checkpoint"):
        sk.restore(model(), tmp_path, "000000001-latest")


def test_a_fit_after_restore_begins_where_the_callback_has_its_own_checkpoints(run, tmp_path):
    made, on = model(seed=99), data()
    sk.restore(made, run, "000000003-latest")
    before = made.get_weights()
    elsewhere = sk.SaveKit(policy(plan("train_begin")), directory=tmp_path / "new", data=on)
    fit(made, elsewhere, on=on, epochs=1)
    assert elsewhere.resumed is None
    first = sk.load_model(tmp_path / "new" / "checkpoints" / "000000000-p")
    np.testing.assert_equal(first.get_weights(), before)
    kit = sk.SaveKit(ASKED, directory=run, data=on)
    fit(made, kit, on=on, epochs=3)
    assert kit.resumed.name == "000000012-latest"


def test_fewer_epochs_than_are_trained_leave_nothing_to_do(run, trained, caplog):
    caplog.set_level(logging.INFO, "keras_savekit")
    made, on = model(seed=99), data()
    kit = sk.SaveKit(ASKED, directory=run, data=on)
    history = fit(made, kit, on=on, epochs=1)
    assert "nothing left to do: 2 of 1 epochs are trained" in caplog.text
    assert history.epoch == [0, 1]
    np.testing.assert_equal(made.get_weights(), trained[1].get_weights())
    assert names(run) == names(trained[0])


# The plan.


def planned(capsys, *arguments):
    code = cli.run(["resume-plan", *map(str, arguments)])
    return code, capsys.readouterr().out


def test_the_plan_names_the_checkpoint_that_fit_then_takes(run, capsys):
    (run / "checkpoints" / "000000012-latest" / "manifest.json").write_text("{}")
    model_file = run / "checkpoints" / "000000012-best" / "model.h5"
    damaged = bytearray(model_file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    model_file.write_bytes(damaged)  # after it was verified
    code, out = planned(capsys, run)
    assert code == 0
    assert "skipped 000000012-latest: " in out
    assert "skipped 000000012-best: " in out
    assert "would resume from 000000011-latest: epoch 2, 5 batches done, step 11" in out
    _, as_json = planned(capsys, run, "--json")
    assert json.loads(as_json)["resume_from"]["name"] == "000000011-latest"
    assert len(names(run)) == 13  # nothing was moved
    on = data()
    kit = sk.SaveKit(ASKED, directory=run, data=on)
    fit(model(), kit, Interrupt(10**6), on=on, epochs=2)
    assert kit.resumed.name == "000000011-latest"


def test_the_plan_of_an_empty_run_ends_with_one(tmp_path, capsys):
    prepare(RunDirectory(tmp_path))
    assert planned(capsys, tmp_path) == (
        1,
        "nothing to resume from: a training would start from scratch\n",
    )
