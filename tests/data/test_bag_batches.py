import numpy as np
import torch

from medfl.data import bag_batches
from medfl.data.bag_batches import BagBatches
from medfl.data.bag_store import BagStore
from medfl.data.batches import epoch_order
from tests.bags import bag

SIZES = (3, 1, 5, 2)


def batches(dropout=0.0, dtype=np.float32):
    offsets = np.concatenate([[0], np.cumsum(SIZES)])
    rows = np.arange(len(SIZES))
    store = BagStore("a", bag(0, sum(SIZES)).astype(dtype), offsets, rows % 2, rows, {"train": rows}, "d")
    return BagBatches(store, torch.device("cpu"), dropout)


def test_bags_come_whole_one_after_another_and_without_padding():
    made = batches()
    [(first, labels)] = made.training(torch.tensor([[2, 1]]), seed=0)
    assert first.sizes == (5, 1)
    assert labels.tolist() == [0, 1]
    torch.testing.assert_close(first.split(first.features)[0], made.features[4:9])


def test_sixteen_bits_become_thirty_two_on_the_device():
    [(first, _)] = batches(dtype=np.float16).training(torch.tensor([[0]]), seed=0)
    assert first.features.dtype == torch.float32


def test_dropout_leaves_out_a_share_and_never_all():
    made = batches(0.9)
    order = epoch_order(np.arange(4), 4, 50, seed=1)
    sizes = np.array([[*bags.sizes] for bags, _ in made.training(order, seed=1)])
    whole = np.array(SIZES)[order.numpy()]
    assert sizes.min() == 1
    assert (sizes <= whole).all()
    assert (sizes[whole == 5]).mean() < 1.5
    again = np.array([[*bags.sizes] for bags, _ in made.training(order, seed=1)])
    assert (sizes == again).all()


def test_evaluation_looks_at_few_instances_together(monkeypatch):
    monkeypatch.setattr(bag_batches, "INSTANCES", 4)
    made = batches()
    assert [bags.sizes for bags in made.evaluation(np.array([0, 1, 2, 3]), 8)] == [(3, 1), (5,), (2,)]
    assert [bags.sizes for bags in made.evaluation(np.array([3, 1, 0]), 1)] == [(2,), (1,), (3,)]
    assert list(made.evaluation(np.array([], dtype=np.int64), 8)) == []
