"""The arithmetic of epoch, batch and step, without a `fit`."""

import pytest

from keras_savekit.base.moment import Moment
from keras_savekit.fit.progress import Progress


def calls(progress, begins):
    """The (epoch, batch, step) after each call of the train function."""
    found = []
    for batch in begins:
        progress = progress.end_call(batch, 1.0)
        found.append((progress.now.epoch, progress.now.batch, progress.now.step))
    return found


@pytest.mark.parametrize(
    ("progress", "begins", "after"),
    [
        (Progress(Moment()), [0, 1, 2], [(0, 1, 1), (0, 2, 2), (0, 3, 3)]),
        (Progress(Moment(2, 0, 8), length=4), [0, 3], [(2, 1, 9), (2, 4, 12)]),
        # Two batches a call, five an epoch: the last call takes one.
        (
            Progress(Moment(), length=5, per_call=2),
            [0, 2, 4],
            [(0, 2, 2), (0, 4, 4), (0, 5, 5)],
        ),
        # Resumed behind batch 3: Keras counts from 0 again.
        (
            Progress(Moment(1, 3, 8), length=5).begin_epoch(1, 0.0),
            [0, 1],
            [(1, 4, 9), (1, 5, 10)],
        ),
        (
            Progress(Moment(1, 3, 8), length=8, per_call=3).begin_epoch(1, 0.0),
            [0, 3],
            [(1, 6, 11), (1, 8, 13)],
        ),
        # Of unknown length: nothing cuts the last call.
        (Progress(Moment(), per_call=2), [0, 2], [(0, 2, 2), (0, 4, 4)]),
    ],
)
def test_steps_count_batches_whatever_a_call_takes_and_wherever_an_epoch_resumed(
    progress, begins, after
):
    assert calls(progress, begins) == after


def test_a_resumed_epoch_keeps_its_position_and_the_next_one_starts_at_zero():
    resumed = Progress(Moment(1, 3, 8, 5.0, {"loss": 1.0}), length=5).begin_epoch(1, 9.0)
    assert (resumed.offset, resumed.now) == (3, Moment(1, 3, 8, 5.0, {"loss": 1.0}))
    following = resumed.begin_epoch(2, 9.0)
    assert (following.offset, following.now) == (0, Moment(2, 0, 8, 9.0, {"loss": 1.0}))


def test_the_first_epoch_teaches_the_length_that_later_ones_have():
    progress = Progress(Moment()).end_call(0, 1.0).end_call(1, 1.0)
    assert not progress.at_epochs_end
    assert progress.learn_length().at_epochs_end
    ended = progress.end_epoch(0, 2.0).with_logs({"val_loss": 0.5})
    assert (ended.length, ended.now) == (2, Moment(1, 0, 2, 2.0, {"val_loss": 0.5}))
    assert ended.begin_epoch(1, 2.0).end_epoch(1, 3.0).length == 2


@pytest.mark.parametrize(
    ("offset", "length", "left"), [(0, 5, True), (3, 5, True), (5, 5, False), (3, None, True)]
)
def test_an_epoch_whose_batches_are_all_done_has_nothing_left(offset, length, left):
    progress = Progress(Moment(1, offset, 9), length=length).begin_epoch(1, 0.0)
    assert progress.nothing_left_in_epoch is not left


@pytest.mark.parametrize(
    ("known", "offset", "ours"),
    [(True, 0, False), (True, 2, True), (False, 0, True), (False, 2, True)],
)
def test_keras_ends_an_epoch_only_if_it_knows_its_whole_length(known, offset, ours):
    progress = Progress(Moment(1, offset, 9), length=5, known_to_keras=known).begin_epoch(1, 0.0)
    assert progress.ends_without_keras is ours


@pytest.mark.parametrize(
    ("known", "saved", "length"), [(5, 6, 5), (None, 6, 6), (None, None, None)]
)
def test_a_resume_takes_the_length_of_the_checkpoint_only_if_it_is_not_known(known, saved, length):
    moment = Moment(1, 3, 9, 4.0, {"loss": 1.0})
    resumed = Progress(Moment(), length=known).resume(moment, saved)
    assert (resumed.now, resumed.length) == (moment, length)


def test_a_call_keeps_the_logs_until_newer_ones_are_read():
    progress = Progress(Moment(0, 1, 1, 1.0, {"loss": 3.0})).end_call(1, 2.0)
    assert progress.now == Moment(0, 2, 2, 2.0, {"loss": 3.0})
    assert progress.with_logs({"loss": 1.0}).now == Moment(0, 2, 2, 2.0, {"loss": 1.0})


def test_the_first_epoch_of_a_session_is_known_by_what_came_before_it():
    progress = Progress(Moment())
    assert progress.fresh
    assert not progress.begin_epoch(0, 0.0).fresh


def test_a_validation_ends_with_its_epoch_and_teaches_the_length():
    validating = Progress(Moment()).end_call(0, 1.0).begin_validation()
    assert (validating.validated, validating.length) == (True, 1)
    assert not validating.end_epoch(0, 1.0).begin_epoch(1, 1.0).validated


def test_a_validation_of_an_epoch_that_was_cut_short_teaches_no_length():
    validating = Progress(Moment()).end_call(0, 1.0).cut().begin_validation()
    assert (validating.validated, validating.length, validating.cut_short) == (True, None, True)


@pytest.mark.parametrize(
    ("step", "updates", "now", "found"), [(0, 0, 3, 3), (8, 8, 9, 9), (8, 2, 3, 9)]
)
def test_a_step_is_counted_from_the_updates_that_the_optimizer_had_before(
    step, updates, now, found
):
    progress = Progress(Moment(step=step)).count_updates(updates)
    assert progress.step_of(now) == found
