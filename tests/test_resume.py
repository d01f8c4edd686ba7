"""A stopped training resumes as if it had not been stopped."""

import logging
import shutil
import threading

import h5py
import keras
import numpy as np
import pytest
from test_store_builders import unlocked
from training_builders import (
    BATCH,
    STEPS,
    BatchLogs,
    Interrupt,
    arrays,
    data,
    digest,
    events,
    fit,
    model,
    names,
    plan,
    policy,
)

import keras_savekit as sk
from keras_savekit.formats import checkpoint as checkpoint_files
from keras_savekit.formats import state_h5
from keras_savekit.store.run import RunDirectory

EPOCHS = 3
EVERY_STEP = policy(plan("every 1 steps", when_busy="wait"))


def saved_until(directory, step, asked=EVERY_STEP, on=None, made=None, **arguments):
    """A training that is stopped after `step` steps, each of which was saved."""
    on = data() if on is None else on
    kit = sk.SaveKit(asked, directory=directory, data=on)
    made = made or model()
    with pytest.raises(KeyboardInterrupt):
        fit(made, kit, Interrupt(step), on=on, epochs=EPOCHS, **arguments)
    return made


def resumed(directory, asked=EVERY_STEP, on=None, made=None, epochs=EPOCHS, **arguments):
    """The same training again: the model, the kit and every batch's logs."""
    on = data() if on is None else on
    # Another seed: nothing may depend on what the model was before.
    made = made or model(seed=99)
    kit = sk.SaveKit(asked, directory=directory, data=on)
    watched = BatchLogs()
    fit(made, kit, watched, on=on, epochs=epochs, **arguments)
    return made, kit, watched.seen


@pytest.fixture(scope="module")
def whole():
    """The training that nothing stopped."""
    made, watched = model(), BatchLogs()
    made.fit(data(), epochs=EPOCHS, verbose=0, shuffle=False, callbacks=[watched])
    return digest(made), watched.seen


@pytest.mark.parametrize("step", [1, 4, STEPS - 1, STEPS, STEPS + 1, 2 * STEPS, 3 * STEPS - 1])
def test_every_loss_and_every_variable_is_that_of_the_training_nothing_stopped(
    tmp_path, whole, step
):
    saved_until(tmp_path, step)
    made, kit, logs = resumed(tmp_path)
    assert kit.resumed.moment.step == step
    assert kit.resumed.moment.batch % STEPS == step % STEPS
    assert (digest(made), logs[-len(whole[1]) + step :]) == (whole[0], whole[1][step:])


def test_a_training_stopped_twice_is_exact_too(tmp_path, whole):
    saved_until(tmp_path, 4)
    saved_until(tmp_path, 5, made=model(seed=98))
    made, kit, _ = resumed(tmp_path)
    assert kit.resumed.moment.step == 9
    assert digest(made) == whole[0]


def test_the_report_says_exact_when_nothing_is_in_the_way(tmp_path, caplog):
    caplog.set_level(logging.INFO, "keras_savekit")
    saved_until(tmp_path, 4)
    saver = sk.SaveKit(EVERY_STEP, directory=tmp_path, data=(on := data()))
    fit(model(), saver, on=on, epochs=EPOCHS)
    assert (saver.resumed.level, saver.resumed.reasons) == ("exact", ())
    shown = caplog.text
    assert "resumed from 000000004-p (exact): epoch 1, 4 batches done, step 4" in shown
    assert events(tmp_path, "resumed")[0]["level"] == "exact"


def test_the_directory_lists_every_step_once_over_both_sessions(tmp_path):
    saved_until(tmp_path, 4)
    resumed(tmp_path)
    assert names(tmp_path) == [f"{step:09d}-p" for step in range(1, EPOCHS * STEPS + 1)]


def test_a_trigger_remembers_its_best_over_sessions(tmp_path):
    asked = policy(
        plan("every 1 steps", "latest", when_busy="wait"), plan("improved loss min", "best")
    )
    saved_until(tmp_path, STEPS + 2, asked)
    resumed(tmp_path, asked)
    again = policy(plan("improved loss min", "best"))
    straight = tmp_path / "straight"
    fit(model(), sk.SaveKit(again, directory=straight), epochs=EPOCHS)
    assert [each for each in names(tmp_path) if each.endswith("-best")] == names(straight)


def test_a_kit_without_a_position_starts_the_epoch_again_and_says_why(tmp_path, caplog):
    caplog.set_level(logging.INFO, "keras_savekit")
    x, y = arrays()
    asked = EVERY_STEP
    kit = sk.SaveKit(asked, directory=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        model().fit(
            x, y, batch_size=BATCH, epochs=2, verbose=0, callbacks=[Interrupt(STEPS + 3), kit]
        )
    kit, watched = sk.SaveKit(asked, directory=tmp_path), BatchLogs()
    model(seed=99).fit(x, y, batch_size=BATCH, epochs=2, verbose=0, callbacks=[watched, kit])
    assert kit.resumed.level == "position"
    assert (kit.resumed.moment.epoch, kit.resumed.moment.batch) == (1, 0)
    assert len(watched.seen) == STEPS
    shown = caplog.text
    assert "epoch 2 starts again; 3 batches are repeated" in shown
    assert "give fit and SaveKit(data=) the same keras_savekit.resumable() data" in shown


def test_data_of_another_order_are_reported_and_the_epoch_starts_again(tmp_path):
    saved_until(tmp_path, 4)
    asked = {**EVERY_STEP, "resume": {"on_mismatch": "ignore"}}
    _, kit, logs = resumed(tmp_path, asked, on=data(seed=6))
    assert any("the data have changed: seed was 5, is 6" in r for r in kit.resumed.reasons)
    assert len(logs) == EPOCHS * STEPS


class Forgetful(keras.callbacks.Callback):
    pass


def test_other_callbacks_that_start_anew_are_named(tmp_path):
    saved_until(tmp_path, 4)
    on = data()
    kit = sk.SaveKit(EVERY_STEP, directory=tmp_path, data=on)
    plateau = keras.callbacks.ReduceLROnPlateau("loss")
    fit(model(), kit, plateau, Forgetful(), on=on, epochs=EPOCHS)
    assert kit.resumed.level == "position"
    assert kit.resumed.reasons == (
        "ReduceLROnPlateau was not in the list before; it starts over",
        "Forgetful starts over; give it get_state() and set_state() if it has a state",
    )


def test_without_metrics_and_with_other_metrics_training_goes_on(tmp_path):
    saved_until(tmp_path, 4)
    _, kit, logs = resumed(tmp_path, made=model(metrics=["mse", "mae"]))
    assert any("its metrics differ" in reason for reason in kit.resumed.reasons)
    assert len(logs) == EPOCHS * STEPS - 4


# Which checkpoint.


def flip(directory, name, file="model.h5"):
    path = directory / "checkpoints" / name / file
    found = bytearray(path.read_bytes())
    found[len(found) // 2] ^= 1
    path.write_bytes(found)


def forget_verification(directory, name):
    (directory / "checkpoints" / name / "verification.json").unlink()


def test_a_damaged_unverified_checkpoint_is_quarantined_and_the_previous_one_is_used(
    tmp_path, whole, caplog
):
    caplog.set_level(logging.INFO, "keras_savekit")
    saved_until(tmp_path, 5)
    forget_verification(tmp_path, "000000005-p")
    flip(tmp_path, "000000005-p")
    made, kit, _ = resumed(tmp_path)
    assert kit.resumed.name == "000000004-p"
    assert "skipped 000000005-p" in caplog.text
    assert [name for name, _ in RunDirectory(tmp_path).quarantined()] == ["000000005-p"]
    assert digest(made) == whole[0]


def test_damage_after_the_verification_is_found_before_anything_is_restored(tmp_path, whole):
    saved_until(tmp_path, 5)
    path = tmp_path / "checkpoints" / "000000005-p" / "model.h5"
    with h5py.File(path, "r+") as file:
        kernel = next(iter(datasets(file["model_weights"])))
        kernel[...] = np.asarray(kernel) + 1
    made, kit, _ = resumed(tmp_path)
    assert kit.resumed.name == "000000004-p"
    assert digest(made) == whole[0]


def datasets(group):
    found = []
    group.visititems(lambda _, item: found.append(item) if hasattr(item, "shape") else None)
    return found


def test_an_unverified_good_one_is_verified_and_taken(tmp_path):
    saved_until(tmp_path, 5)
    forget_verification(tmp_path, "000000005-p")
    _, kit, _ = resumed(tmp_path)
    assert kit.resumed.name == "000000005-p"
    assert RunDirectory(tmp_path).open("000000005-p").status == "verified"


def test_when_every_checkpoint_is_damaged_training_begins_anew_and_says_so(tmp_path, caplog):
    caplog.set_level(logging.INFO, "keras_savekit")
    saved_until(tmp_path, 2)
    for name in names(tmp_path):
        (tmp_path / "checkpoints" / name / "manifest.json").write_text("{}")
    _, kit, logs = resumed(tmp_path)
    assert kit.resumed is None
    assert len(logs) == EPOCHS * STEPS
    assert caplog.text.count("skipped 00000000") == 2


def test_what_a_killed_save_left_is_swept_and_never_listed(tmp_path):
    saved_until(tmp_path, 2)
    scratch = unlocked(tmp_path).new_scratch("000000009-p")
    shutil.copy(tmp_path / "checkpoints" / "000000002-p" / "model.h5", scratch)
    _, kit, _ = resumed(tmp_path)
    assert kit.resumed.name == "000000002-p"
    assert not scratch.exists()


# Refusals: before the first step, with nothing changed.


def refused(directory, error, message, asked=EVERY_STEP, made=None):
    kit = sk.SaveKit(asked, directory=directory, data=(on := data()))
    before = names(directory) if directory.joinpath("checkpoints").exists() else []
    made = made or model(seed=99)
    initial, watched = made.get_weights(), BatchLogs()
    with pytest.raises(error, match=message):
        fit(made, kit, watched, on=on, epochs=EPOCHS)
    assert watched.seen == []
    assert names(directory) == before
    for was, now in zip(initial, made.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)
    sk.SaveKit(asked, directory=directory)  # the directory is free again


def test_checkpoints_of_another_architecture_are_refused_naming_what_differs(tmp_path):
    saved_until(tmp_path, 2)
    refused(
        tmp_path,
        sk.MismatchError,
        r"(?s)another architecture.*kernel float32\[3, 4\] in the checkpoint.*float32\[3, 5\]",
        made=model(units=5),
    )


def test_checkpoints_of_another_optimizer_are_refused(tmp_path):
    saved_until(tmp_path, 2)
    refused(tmp_path, sk.MismatchError, "another optimizer", made=model(optimizer="sgd"))


def test_resume_never_refuses_a_directory_that_has_checkpoints(tmp_path):
    saved_until(tmp_path, 2)
    asked = {**EVERY_STEP, "resume": "never"}
    refused(tmp_path, sk.DirectoryError, "checkpoints of an earlier run", asked)


def test_resume_never_begins_in_an_empty_directory(tmp_path):
    _, kit, logs = resumed(tmp_path, {**EVERY_STEP, "resume": "never"})
    assert kit.resumed is None
    assert len(logs) == EPOCHS * STEPS


def test_resume_required_refuses_an_empty_directory(tmp_path):
    asked = {**EVERY_STEP, "resume": "required"}
    refused(tmp_path, sk.ResumeError, "no checkpoint to resume from", asked)


# More than one `fit`.


def test_a_finished_training_started_again_says_that_nothing_is_left(tmp_path, caplog):
    caplog.set_level(logging.INFO, "keras_savekit")
    asked = policy(plan("train_end"))
    resumed(tmp_path, asked)
    _, kit, logs = resumed(tmp_path, asked)
    assert len(logs) == EPOCHS * STEPS  # remembered, and no more
    assert kit.resumed.moment.epoch == EPOCHS
    assert f"nothing left to do: {EPOCHS} of {EPOCHS} epochs are trained" in caplog.text
    assert names(tmp_path) == ["000000018-p"]


def test_more_epochs_go_on_where_the_finished_training_ended(tmp_path):
    asked = policy(plan("train_end"))
    resumed(tmp_path, asked, epochs=1)
    made, _, logs = resumed(tmp_path, asked, epochs=EPOCHS)
    assert len(logs) == EPOCHS * STEPS
    straight = model(seed=99)
    straight.fit(data(), epochs=EPOCHS, verbose=0, shuffle=False)
    assert digest(made) == digest(straight)


def test_fit_twice_with_one_kit_goes_on(tmp_path):
    on = data()
    kit, made = sk.SaveKit(policy(plan("train_end")), directory=tmp_path, data=on), model()
    fit(made, kit, on=on, epochs=1)
    fit(made, kit, on=on, epochs=2)
    assert names(tmp_path) == ["000000006-p", "000000012-p"]
    straight = model()
    straight.fit(data(), epochs=2, verbose=0, shuffle=False)
    assert digest(made) == digest(straight)


def test_a_later_fit_without_the_kit_begins_at_its_beginning(tmp_path):
    saved_until(tmp_path, STEPS + 2)
    made, _, _ = resumed(tmp_path)
    watched = BatchLogs()
    made.fit(data(), epochs=1, verbose=0, shuffle=False, callbacks=[watched])
    assert len(watched.seen) == STEPS


def test_steps_per_execution_resumes_exactly(tmp_path):
    straight = model(steps_per_execution=2)
    straight.fit(data(), epochs=EPOCHS, verbose=0, shuffle=False)
    made = model(steps_per_execution=2)
    on = data()
    kit = sk.SaveKit(EVERY_STEP, directory=tmp_path, data=on)
    with pytest.raises(KeyboardInterrupt):
        fit(made, kit, Interrupt(2), on=on, epochs=EPOCHS)
    made, kit, _ = resumed(tmp_path, made=model(seed=99, steps_per_execution=2))
    assert kit.resumed.moment.step == 4
    assert digest(made) == digest(straight)


def test_what_is_written_late_is_what_was_when_it_was_asked_for(tmp_path, monkeypatch):
    ended = threading.Event()
    real = checkpoint_files.write

    def late(scratch, snapshot, *rest):
        if snapshot.moment.step == STEPS - 1:
            assert ended.wait(60)  # the epoch that this step is in
        return real(scratch, snapshot, *rest)

    class NextEpoch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                ended.set()

        def get_state(self):
            return {}

        def set_state(self, state):
            pass

    monkeypatch.setattr(checkpoint_files, "write", late)
    kit = sk.SaveKit(EVERY_STEP, directory=tmp_path, data=data())
    with pytest.raises(KeyboardInterrupt):
        fit(model(), kit, NextEpoch(), Interrupt(STEPS + 1), on=data())
    state = state_h5.read(tmp_path / "checkpoints" / f"{STEPS - 1:09d}-p" / "state.h5")
    assert state["history"] == []
