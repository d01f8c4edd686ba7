"""Several savekit callbacks in one `fit`: they begin together, and each keeps its own directory."""

import keras
import pytest
from training_builders import (
    STEPS,
    BatchLogs,
    Interrupt,
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

EPOCHS = 3
OFTEN = policy(plan("every 2 steps", when_busy="wait"))
BEST = policy(
    plan("improved loss min", "best", when_busy="wait"),
    plan("every 5 steps", "fives", when_busy="wait"),
)


def two(tmp_path, on, first=OFTEN, second=BEST):
    return (
        sk.SaveKit(first, directory=tmp_path / "a", data=on),
        sk.SaveKit(second, directory=tmp_path / "b", data=on),
    )


def trained(tmp_path, *before, **policies):
    made, on = model(), data()
    kits = two(tmp_path, on, **policies)
    history = fit(made, kits[1], *before, kits[0], on=on, epochs=EPOCHS)
    return made, kits, history


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    made, _, history = trained(directory)
    return digest(made), history.history, {each: names(directory / each) for each in "ab"}


@pytest.mark.parametrize("stop", [5, 7, 9], ids=["the second", "both", "the first"])
def test_both_go_on_from_the_newest_checkpoint_of_either(tmp_path, whole, stop):
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, Interrupt(stop))
    made, kits, history = trained(tmp_path)
    newest = max(name for each in "ab" for name in whole[2][each] if int(name[:9]) <= stop)
    assert {kit.resumed.name[:9] for kit in kits} == {newest[:9]}
    assert [kit.resumed.level for kit in kits] == ["exact", "exact"]
    assert digest(made) == whole[0]
    assert history.history == whole[1]
    assert {each: names(tmp_path / each) for each in "ab"} == whole[2]
    resumed = [events(tmp_path / each, "resumed")[-1] for each in "ab"]
    assert sum("of" in each for each in resumed) == 1  # one of them took the other's checkpoint


@pytest.mark.parametrize("last", ["a", "b"])
def test_of_two_checkpoints_of_one_step_the_last_callbacks_is_taken(tmp_path, last):
    """It was saved when all other callbacks had done their part."""

    def listed(on):
        kits = two(tmp_path, on, second=OFTEN)
        return kits if last == "b" else kits[::-1]

    on = data()
    first, second = listed(on)
    with pytest.raises(KeyboardInterrupt):
        fit(model(), second, Interrupt(5), first, on=on, epochs=EPOCHS)
    assert names(tmp_path / "a") == names(tmp_path / "b")
    on = data()
    first, second = listed(on)
    fit(model(), second, first, on=on, epochs=EPOCHS)
    taken_from_another = {each: "of" in events(tmp_path / each, "resumed")[-1] for each in "ab"}
    assert taken_from_another == {each: each != last for each in "ab"}


def test_the_order_of_the_kits_does_not_matter(tmp_path, whole):
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, Interrupt(STEPS + 3))
    made, on = model(seed=99), data()
    kits = two(tmp_path, on)
    watched = BatchLogs()
    fit(made, kits[0], watched, kits[1], on=on, epochs=EPOCHS)
    assert digest(made) == whole[0]
    assert len(watched.seen) == EPOCHS * STEPS - kits[0].resumed.moment.step


def test_an_epoch_of_which_all_batches_are_done_is_not_trained_again(tmp_path, whole):
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, Interrupt(STEPS), first=policy(plan("every 1 step", when_busy="wait")))
    made, kits, history = trained(tmp_path, first=policy(plan("every 1 step", when_busy="wait")))
    assert (kits[0].resumed.moment.epoch, kits[0].resumed.moment.batch) == (0, STEPS)
    assert digest(made) == whole[0]
    assert history.history == whole[1]


def test_a_kit_that_never_resumes_counts_on_from_where_the_other_stands(tmp_path):
    made, on = model(), data()
    kit = sk.SaveKit(OFTEN, directory=tmp_path / "a", data=on)
    with pytest.raises(KeyboardInterrupt):
        fit(made, kit, Interrupt(STEPS + 3), on=on, epochs=EPOCHS)
    trained(tmp_path, second={**BEST, "resume": "never"})
    assert names(tmp_path / "b")[0] >= f"{STEPS + 3:09d}"


def test_one_kit_that_requires_a_checkpoint_is_served_by_the_other(tmp_path):
    with pytest.raises(sk.ResumeError, match="no checkpoint to resume from"):
        trained(tmp_path, second={**BEST, "resume": "required"})
    made, on = model(), data()
    kit = sk.SaveKit(OFTEN, directory=tmp_path / "a", data=on)
    fit(made, kit, on=on, epochs=1)
    _, kits, _ = trained(tmp_path, second={**BEST, "resume": "required"})
    assert kits[1].resumed.moment.epoch == 1


@pytest.mark.filterwarnings("ignore:Fails comes after")
def test_a_kit_left_over_from_a_fit_that_failed_leads_no_other(tmp_path):
    made, on = model(), data()
    kits = two(tmp_path, on)

    class Fails(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            raise ValueError("not today")

    with pytest.raises(ValueError, match="not today"):
        fit(made, kits[1], kits[0], Fails(), on=on)
    fit(made, kits[1], kits[0], on=on, epochs=EPOCHS)
    assert [kit.resumed for kit in kits] == [None, None]
    assert names(tmp_path / "a")
    assert names(tmp_path / "b")
