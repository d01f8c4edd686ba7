"""Resumable arrays: their order is a function of (seed, epoch), and they start at any batch."""

import numpy as np
import pytest
import tensorflow as tf

import keras_savekit as sk
from keras_savekit.data.source import source_of
from keras_savekit.errors import DataError

X = np.arange(11, dtype=np.float32)


def epoch_of(dataset):
    return [batch.numpy().tolist() for (batch,) in dataset]


def flat(epoch):
    return [sample for batch in epoch for sample in batch]


def from_position(dataset, epoch, batch):
    source_of(dataset).start(epoch, batch)
    return epoch_of(dataset)


def test_every_epoch_has_every_sample_once_in_an_order_of_its_own():
    dataset = sk.resumable(X, batch_size=4, seed=1)
    first, second = epoch_of(dataset), epoch_of(dataset)
    assert [len(batch) for batch in first] == [4, 4, 3]
    for epoch in (first, second):
        assert sorted(flat(epoch)) == X.tolist()
    assert first != second


def test_the_same_seed_gives_the_same_order_and_another_seed_another_order():
    epochs = [epoch_of(sk.resumable(X, batch_size=4, seed=seed)) for seed in (1, 1, 2)]
    assert epochs[0] == epochs[1]
    assert epochs[0] != epochs[2]


def test_an_epoch_that_starts_at_a_batch_continues_as_if_read_from_its_beginning():
    dataset = sk.resumable(X, batch_size=4, seed=1)
    whole = [from_position(dataset, epoch, 0) for epoch in range(3)]
    for epoch in range(3):
        for batch in range(3):
            assert from_position(dataset, epoch, batch) == whole[epoch][batch:]
    from_position(dataset, 0, 1)
    assert epoch_of(dataset) == whole[1]  # the next epoch starts at its first batch


def test_map_and_prefetch_after_it_start_at_the_same_position():
    dataset = sk.resumable(X, batch_size=4, seed=1)
    whole = from_position(dataset, 2, 0)
    mapped = dataset.map(lambda x: (x + 100,)).prefetch(2)
    source_of(dataset).start(2, 1)
    assert [[x - 100 for x in batch] for batch in epoch_of(mapped)] == whole[1:]


def test_without_shuffling_samples_keep_their_order():
    assert flat(epoch_of(sk.resumable(X, batch_size=4, shuffle=False))) == X.tolist()


def test_inputs_targets_and_sample_weights_stay_together_in_any_structure():
    x = {"a": X, "b": [X[:, None] * 2]}
    dataset = sk.resumable(x, X * 3, sample_weight=X * 4, batch_size=4, seed=1)
    for inputs, targets, weights in dataset:
        np.testing.assert_array_equal(inputs["b"][0][:, 0], inputs["a"] * 2)
        np.testing.assert_array_equal(targets, inputs["a"] * 3)
        np.testing.assert_array_equal(weights, inputs["a"] * 4)


def test_keras_knows_how_many_batches_an_epoch_has():
    dataset = sk.resumable(X, batch_size=4)
    assert int(dataset.cardinality()) == 3
    assert source_of(dataset).steps_per_epoch == 3


def test_batches_have_a_static_size_where_all_are_full():
    shapes = [sk.resumable(X[:samples], batch_size=4).element_spec[0].shape for samples in (8, 11)]
    assert shapes == [tf.TensorShape([4]), tf.TensorShape([None])]


def test_one_sample_is_enough():
    assert epoch_of(sk.resumable(X[:1], batch_size=4, seed=3)) == [[0.0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": X, "y": X[:5]}, r"different numbers of samples: \[5, 11\]"),
        ({"x": X[:0]}, "have no samples"),
        ({"x": X, "batch_size": 0}, "batch_size must be an integer of 1 or more, got 0"),
        ({"x": X, "batch_size": True}, "batch_size must be an integer"),
        ({"x": X, "sample_weight": X}, "sample_weight= needs y="),
    ],
)
def test_invalid_data_is_refused_with_the_reason(arguments, message):
    with pytest.raises(DataError, match=message):
        sk.resumable(**arguments)


def test_a_dataset_without_a_position_is_refused_with_a_remedy():
    dataset = sk.resumable(X).map(lambda x: x)
    with pytest.raises(DataError, match=r"(?s)_MapDataset.*from before any \.map"):
        source_of(dataset)


def test_data_with_another_order_has_another_identity():
    def identity(x=X, **arguments):
        return source_of(sk.resumable(x, **{"batch_size": 4, "seed": 1, **arguments})).identity

    assert identity() == identity()
    others = [identity(seed=2), identity(batch_size=5), identity(shuffle=False), identity(X[:9])]
    assert all(other != identity() for other in others)
