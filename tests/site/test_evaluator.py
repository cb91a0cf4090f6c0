"""The evaluator: logits depend on the vectors it is given and on nothing that went before."""

import pytest
import torch

from medfl.data.batches import Batches
from medfl.site.evaluator import Evaluator
from tests.toys import CLASSES, toy_bench, toy_store


@pytest.fixture
def evaluator():
    bench, store = toy_bench(seed=4, backbone="test_resnet"), toy_store("solo", 1, train=11)
    batches = Batches(store, torch.device("cpu"), bench.model.mean, bench.model.std, None)
    return Evaluator(bench, store, batches, batch_size=4)


def test_it_is_the_network_in_evaluation_mode(evaluator):
    shared = evaluator.shared
    weights, buffers = shared.model.weights(), shared.model.buffers()
    rows = evaluator.store.splits["train"]
    images = torch.cat(list(evaluator.batches.evaluation(rows, 100, full=False)))
    shared.net.eval()
    with torch.inference_mode():
        expected = shared.net(images).double()
    logits = evaluator.logits(weights, buffers, "train")
    assert logits.dtype == torch.float64
    assert logits.shape == (11, len(CLASSES))
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


def test_what_is_loaded_and_its_mode_do_not_matter(evaluator):
    shared = evaluator.shared
    weights, buffers = shared.model.weights(), shared.model.buffers()
    first = evaluator.logits(weights, buffers, "train")
    other = evaluator.logits(weights + 0.5, buffers, "train")
    assert not torch.equal(first, other)
    shared.net.train()
    assert torch.equal(evaluator.logits(weights, buffers, "train"), first)
    assert torch.equal(evaluator.logits(weights + 0.5, buffers, "train"), other)


def test_several_parts_are_each_by_itself(evaluator):
    shared, splits = evaluator.shared, evaluator.store.splits
    model = shared.model.weights(), shared.model.buffers()
    parts = evaluator.logits_of_each(*model, ["train", splits["train"][:3], splits["train"][:0]])
    assert [len(part) for part in parts] == [11, 3, 0]
    torch.testing.assert_close(parts[1], parts[0][:3], rtol=1e-5, atol=1e-5)
    assert parts[2].shape == (0, len(CLASSES))


def test_a_split_that_is_not_there_is_named(evaluator):
    with pytest.raises(ValueError, match="solo has no split 'nights'"):
        evaluator.rows("nights")
