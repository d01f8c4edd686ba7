"""Resumable data with a new dataset for each epoch, from a function or a PyDataset."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from training_builders import (
    BATCH,
    STEPS,
    Interrupt,
    arrays,
    digest,
    fit,
    model,
    plan,
    policy,
    without_autotuning,
)

import keras_savekit as sk
from keras_savekit.data.source import source_of
from keras_savekit.errors import DataError

X, Y = arrays()


def shuffled(epoch):
    slices = tf.data.Dataset.from_tensor_slices((X, Y))
    return without_autotuning(slices.shuffle(30, seed=epoch).batch(BATCH))


class Batches(keras.utils.PyDataset):
    """Adds the number of ended epochs to each batch, as augmentation could."""

    def __init__(self, **options):
        super().__init__(**options)
        self.ended = 0

    def __len__(self):
        return STEPS

    def __getitem__(self, index):
        rows = slice(index * BATCH, (index + 1) * BATCH)
        return X[rows] + np.float32(self.ended), Y[rows]

    def on_epoch_end(self):
        self.ended += 1


MAKERS = {
    "function": lambda: sk.resumable(shuffled),
    "generator": lambda: sk.resumable(
        lambda epoch: shuffled(epoch).filter(lambda x, y: True), steps_per_epoch=STEPS
    ),
    "endless": lambda: sk.resumable(lambda epoch: shuffled(epoch).repeat(), steps_per_epoch=STEPS),
    "py_dataset": lambda: sk.resumable(Batches(), seed=3),
    "workers": lambda: sk.resumable(Batches(workers=2, max_queue_size=2), seed=3),
    "in order": lambda: sk.resumable(Batches(), shuffle=False),
    "mapped": lambda: sk.resumable(shuffled).map(lambda x, y: (x * 2, y)).prefetch(1),
}


def contents(dataset):
    return [[tensor.numpy().tolist() for tensor in batch] for batch in dataset]


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind != "mapped"])
def test_every_kind_starts_at_any_batch_of_any_epoch(kind):
    straight = MAKERS[kind]()
    epochs = [contents(straight) for _ in range(3)]
    assert len({str(epoch) for epoch in epochs}) == 3
    for epoch, batch in ((0, 0), (0, 5), (1, 2), (2, 3)):
        dataset = MAKERS[kind]()
        source_of(dataset).start(epoch, batch)
        assert contents(dataset) == epochs[epoch][batch:]
    assert int(straight.cardinality()) == STEPS
    assert source_of(straight).steps_per_epoch == STEPS


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind not in ("mapped", "in order")])
def test_a_training_on_every_kind_is_resumed_exactly(tmp_path, kind):
    def train(directory, stop):
        on = MAKERS[kind]()
        kit = sk.SaveKit(
            policy(plan("every 1 steps", when_busy="wait")), directory=directory, data=on
        )
        made = model()
        fit(made, kit, Interrupt(stop), on=on, epochs=3)
        return digest(made), kit.resumed

    whole, _ = train(tmp_path / "whole", 10**6)
    for stop in (3, STEPS + 2):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / str(stop), stop)
        found, resumed = train(tmp_path / str(stop), 10**6)
        assert (resumed.level, resumed.moment.step) == ("exact", stop)
        assert found == whole


def test_map_and_prefetch_continue_from_the_position():
    mapped, plain = MAKERS["mapped"](), MAKERS["function"]()
    for _ in range(2):
        assert contents(mapped) == [
            [(np.array(x, np.float32) * 2).tolist(), y] for x, y in contents(plain)
        ]


def test_a_method_that_would_lose_the_position_is_refused_by_name():
    with pytest.raises(DataError, match=r"\.repeat\(\) behind resumable.*\n.*into the function"):
        sk.resumable(shuffled).repeat()


def test_every_way_to_derive_a_dataset_keeps_the_position_or_is_refused():
    from keras_savekit.data.per_epoch import _REFUSED

    kept = {"map", "prefetch", "with_options"}
    assert all(callable(getattr(tf.data.Dataset, name)) for name in {*_REFUSED.split(), *kept})


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_an_epoch_of_unknown_length_starts_over_and_says_what_would_help(tmp_path):
    def unknown():
        return sk.resumable(lambda epoch: shuffled(epoch).filter(lambda x, y: True))

    def train(directory, stop):
        on = unknown()
        requested = policy(plan("every 1 steps", when_busy="wait"))
        kit, made = sk.SaveKit(requested, directory=directory, data=on), model()
        fit(made, kit, Interrupt(stop), on=on, epochs=3)
        return digest(made), kit.resumed

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "a", 4)
    _, resumed = train(tmp_path / "a", 10**6)
    assert resumed.level == "exact from the epoch's start"
    assert any("steps_per_epoch=" in reason for reason in resumed.reasons)
    whole, _ = train(tmp_path / "whole", 10**6)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", STEPS + 3)  # an epoch has been seen: its length is known
    found, resumed = train(tmp_path / "b", 10**6)
    assert resumed.level == "exact"
    assert found == whole


def test_on_epoch_end_is_called_for_every_epoch_before_the_resumed_one():
    inner = Batches()
    dataset = sk.resumable(inner, seed=3)
    source_of(dataset).start(2, 1)
    contents(dataset)
    assert inner.ended == 2


def test_a_py_dataset_cannot_go_back_and_says_so():
    dataset = sk.resumable(Batches(), seed=3)
    source_of(dataset).start(2, 0)
    contents(dataset)
    source_of(dataset).start(0, 0)
    with pytest.raises(tf.errors.OpError, match="cannot go back to 1"):
        contents(dataset)


@pytest.mark.slow
def test_batches_are_made_in_processes_if_the_dataset_requests_them():
    in_processes = sk.resumable(Batches(workers=2, use_multiprocessing=True), seed=3)
    assert contents(in_processes) == contents(MAKERS["py_dataset"]())


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (lambda: sk.resumable(shuffled(0)), r"(?s)order of the next epoch.*lambda epoch"),
        (lambda: sk.resumable(shuffled, batch_size=4), "batch_size is for arrays"),
        (lambda: sk.resumable(Batches(), Y), "y is for arrays"),
        (lambda: sk.resumable(X, steps_per_epoch=3), "arrays know their length"),
        (lambda: sk.resumable(lambda epoch: X), "must return a tf.data.Dataset, got ndarray"),
        (lambda: sk.resumable(lambda epoch: shuffled(epoch).repeat()), "does not end"),
        (lambda: sk.resumable(shuffled, steps_per_epoch=9), "6 batches, steps_per_epoch says 9"),
    ],
)
def test_invalid_data_is_refused_with_the_reason(give, message):
    with pytest.raises(DataError, match=message):
        give()


def test_steps_per_epoch_of_fit_is_refused_for_data_made_epoch_by_epoch(tmp_path):
    on = sk.resumable(shuffled)
    kit = sk.SaveKit(policy(), directory=tmp_path, data=on)
    with pytest.raises(DataError, match=r"give steps_per_epoch to keras_savekit\.resumable"):
        fit(model(), kit, on=on, steps_per_epoch=4)
