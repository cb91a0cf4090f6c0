"""The phases of a local step: where each acts, what it sees, and that one nobody asks for costs nothing."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from medfl.messages import TrainRequest
from medfl.methods.core.chain import MethodChain
from medfl.methods.core.method import Method
from medfl.model import flat_model
from medfl.model.gradient_blocks import gradient_blocks, storage_address
from medfl.model.layout import Slot
from medfl.site import local_training
from tests.hand import Hand, play
from tests.toys import toy_bench, toy_federation, toy_run, toy_sites, toy_work

ONE = {"one": Hand(2, target=(0.0, 0.0, 1.0), curvature=(1.0, 0.4, 0.2), steps=1)}  # one step of lr .5
START = (4.0, 2.0, -3.0)


@dataclass(frozen=True)
class Probe(Method):
    """A method whose phases are set by tests."""

    name: ClassVar[str] = "probe"


def run(kind, rounds=2, backbone="test_byobnet"):
    """(weights, buffers) after rounds of a toy federation with one method."""
    bench = toy_bench(backbone=backbone)
    bench.chain = MethodChain([kind()])
    federation, _ = toy_federation(bench, toy_sites(bench, (16, 16), toy_work(local_steps=2)), rounds=rounds)
    state = federation.run()
    return state.weights, state.buffers


def plain(rounds=2, backbone="test_byobnet"):
    return run(Probe, rounds, backbone)


def by_hand(kind):
    return play(MethodChain([kind()]), ONE, rounds=1, start=START).rounds(1)[0]


def test_without_any_phase_a_step_is_one_call_of_the_network(monkeypatch):
    def fail(*_):
        raise AssertionError("a phase that nobody asked for")

    monkeypatch.setattr(local_training._Forward, "_edited", fail)
    monkeypatch.setattr(local_training, "_at_other_points", fail)
    monkeypatch.setattr("medfl.model.flat_model.FlatModel.features", fail)
    monkeypatch.setattr("medfl.model.flat_model.FlatModel.gather_gradient", fail)
    state, records = toy_run(rounds=1)
    assert records[0]["counted"]
    assert torch.isfinite(state.weights).all()


def watched_in_small_blocks(monkeypatch):
    """Let blocks be small; the columns of each whose gradient is asked for from then on, and whether it was copied."""
    asked = []

    def watched(model, blocks, out, bind):
        for block, gradient in gradient_blocks(model, blocks, out, bind):
            asked.append((str(block.columns), storage_address(gradient) == storage_address(out)))
            yield block, gradient

    monkeypatch.setattr(flat_model, "BLOCK", 300)
    monkeypatch.setattr(local_training, "gradient_blocks", watched)
    return asked


@pytest.mark.parametrize(
    "method",
    [["scaffold"], ["fedprox"], ["feddyn"], ["fedprox", "scaffold"], ["pflalign"], [{"name": "pflalign", "p_init": 1}]],
)
def test_gradients_that_come_in_blocks_change_no_bit(monkeypatch, method):
    """Methods that say they are elementwise are given the same whole, one block of values after another."""
    momentum = {"momentum": 0.0} if "pflalign" in str(method) else {}
    work = toy_work(**momentum)
    whole, records = toy_run(method, rounds=3, work=work)
    asked = watched_in_small_blocks(monkeypatch)
    state, other = toy_run(method, rounds=3, work=work)
    assert sorted(copied for _, copied in set(asked)) == [False] * 3 + [True] * 2
    assert torch.equal(state.weights, whole.weights)
    assert records == other


def test_methods_that_see_the_whole_gradient_get_it_whole(monkeypatch):
    """LIPS keeps the last gradient, and layers that stay at a site are hidden in the whole vector."""
    asked = watched_in_small_blocks(monkeypatch)
    toy_run(["scaffold", "fedbn"], rounds=1)
    toy_run(["lips"], rounds=1)
    assert set(asked) == {(str(slice(None)), True)}


@pytest.mark.parametrize(("method", "momentum"), [("scaffold", 0.9), ("pflalign", 0.0)])
def test_a_gradient_in_another_order_is_gathered(monkeypatch, method, momentum):
    """As with a network whose gradients autograd lays out in its own way."""
    work = toy_work(momentum=momentum)
    whole, _ = toy_run([method], rounds=2, work=work)
    asked = watched_in_small_blocks(monkeypatch)
    monkeypatch.setattr(Slot, "flattened", lambda self, tensor: None)
    state, _ = toy_run([method], rounds=2, work=work)
    assert all(copied for _, copied in asked)
    assert torch.equal(state.weights, whole.weights)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_rate_falls_from_layer_to_layer(optimizer):
    """One step of a network of a stem, two blocks and a head: .5 ** 3 at the stem to 1 at the head."""
    args = {"img_size": 32, "depth": 2, "embed_dim": 32}
    moved = []
    for decay in (None, 0.5):
        bench = toy_bench(backbone="test_vit", args=args)
        work = toy_work(local_steps=1, momentum=0.0, optimizer=optimizer, layer_decay=decay)
        site = toy_sites(bench, (16,), work)["site-0"]
        model = bench.model
        moved.append(site.handle(TrainRequest(0, model.weights(), model.buffers(), ())).update)
    factors = {"patch_embed": 0.125, "blocks.0": 0.25, "blocks.1": 0.5, "norm": 0.5, "head": 1.0}
    seen = set()
    for slot in model.layout.slots:
        rows = slice(slot.start, slot.start + slot.numel)
        for part, factor in factors.items():
            if slot.name.startswith(part):
                torch.testing.assert_close(moved[1][rows], factor * moved[0][rows], rtol=2e-3, atol=2e-7)
                seen.add(part)
    assert seen == set(factors)


def test_a_perturbed_point_gives_the_gradient_and_the_weights_are_put_back():
    """At w + 1 the gradient is c (w + 1 - t): 5, 1.2, -.6; the step of lr .5 is from w: 1.5, 1.4, -2.7."""

    class Perturb(Probe):
        def perturb(self, local):
            local.model.vector.add_(1.0)

    assert by_hand(Perturb) == pytest.approx([1.5, 1.4, -2.7], abs=1e-6)


def test_ascent_sees_the_first_gradient_and_the_step_is_along_the_second():
    """g = c (w - t) = 4, .8, -.8; at w + g: c (w + g - t) = 8, 1.12, -.96; the step from w: 0, 1.44, -2.52."""
    seen = []

    class Ascend(Probe):
        def ascend(self, local):
            seen.append(local.model.layout.pack(local.gradient).tolist())
            local.model.vector.add_(local.gradient)

        def on_gradient(self, local):
            seen.append(local.model.layout.pack(local.gradient).tolist())

    assert by_hand(Ascend) == pytest.approx([0.0, 1.44, -2.52], abs=1e-5)
    assert seen[0] == pytest.approx([4.0, 0.8, -0.8], abs=1e-5)
    assert seen[1] == pytest.approx([8.0, 1.12, -0.96], abs=1e-5)


def test_a_second_pass_leaves_the_statistics_of_the_first():
    class Stay(Probe):
        def ascend(self, local):
            local.gradient.zero_()

    weights, buffers = run(Stay, rounds=1, backbone="test_resnet")
    expected, statistics = plain(rounds=1, backbone="test_resnet")
    torch.testing.assert_close(buffers, statistics, rtol=0, atol=0)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-6)


def test_images_are_normalised_ones_and_what_is_returned_goes_through_the_network():
    seen = []

    class Look(Probe):
        def transform_batch(self, local, images):
            mean, std = (torch.tensor(v).view(3, 1, 1) for v in (local.model.mean, local.model.std))
            seen.append(images * std + mean)
            return images

    class Blank(Probe):
        def transform_batch(self, local, images):
            return torch.zeros_like(images)

    assert torch.equal(run(Look)[0], plain()[0])
    pixels = torch.stack(seen)
    assert pixels.min() > -1e-6
    assert 0.6 < pixels.max() < 1 + 1e-6
    assert not torch.allclose(run(Blank)[0], plain()[0])


def test_the_loss_may_be_looked_at_added_to_and_replaced_given_logits_labels_and_features():
    seen = []

    class Look(Probe):
        needs_features: ClassVar[bool] = True

        def modify_loss(self, local, batch, loss):
            seen.append(batch)
            assert torch.equal(local.model.head(batch.features), batch.logits)
            assert torch.equal(cross_entropy(batch.logits, batch.labels), loss)
            return loss

    class Half(Probe):
        def modify_loss(self, local, batch, loss):
            assert batch.features is None
            return 0.5 * cross_entropy(batch.logits, batch.labels)

    class HalfTheGradient(Probe):
        def modify_gradient(self, local):
            local.gradient.mul_(0.5)

    assert torch.equal(run(Look)[0], plain()[0])
    assert seen[0].images.shape == (8, 3, 32, 32)
    torch.testing.assert_close(run(Half)[0], run(HalfTheGradient)[0], rtol=0, atol=1e-6)


def test_changed_logits_are_those_that_the_loss_sees():
    class Shift(Probe):
        def modify_logits(self, local, logits, labels):
            assert local.class_counts.sum() == 16
            return logits + torch.tensor([5.0, 0.0, 0.0])

        def modify_loss(self, local, batch, loss):
            assert torch.equal(cross_entropy(batch.logits, batch.labels), loss)
            return loss

    class Scaled(Probe):
        def modify_logits(self, local, logits, labels):
            return logits + 5.0  # the same for all classes: the softmax does not see it

    assert not torch.allclose(run(Shift)[0], plain()[0])
    torch.testing.assert_close(run(Scaled)[0], plain()[0], rtol=0, atol=1e-4)


def test_stated_class_weights_and_a_loss_of_ones_own_are_what_a_step_takes():
    def first_loss(**changes):
        _, records = toy_run([], rounds=1, sizes=(8,), work=toy_work(local_steps=1, **changes))
        return records[0]["sites"]["site-0"]["train_loss"]

    plain, stated = first_loss(), first_loss(class_weights=(1.0, 1.0, 1.0))
    assert stated == plain
    assert first_loss(class_weights=(10.0, 1.0, 1.0)) != plain
    assert first_loss(loss=lambda logits, labels: 3 * cross_entropy(logits, labels)) == pytest.approx(3 * plain)


def test_weights_are_the_sites_own_or_those_stated():
    labels, device = np.array([0, 0, 0, 1]), torch.device("cpu")
    own = local_training.cross_entropy(toy_work(weighted_loss=True), labels, 3, device).weight
    torch.testing.assert_close(own, torch.tensor([4 / 6, 2.0, 0.0]))
    stated = local_training.cross_entropy(toy_work(class_weights=(1.0, 5.0, 2.0)), labels, 3, device).weight
    assert stated.tolist() == [1.0, 5.0, 2.0]
    assert local_training.cross_entropy(toy_work(), labels, 3, device).weight is None


@pytest.mark.parametrize("clip", [None, 0.5])
def test_a_scaled_loss_takes_the_same_step(clip):
    def trained(precision):
        bench = toy_bench()
        bench.precision = precision
        federation, records = toy_federation(bench, toy_sites(bench, (16,), toy_work(clip=clip)), rounds=1)
        return federation.run().weights, records[0]["sites"]["site-0"]["train_loss"]

    (half, half_loss), (whole, loss) = trained("fp16"), trained("float32")
    assert half_loss == pytest.approx(loss, rel=1e-3)
    assert (half - whole).norm() < 0.1 * (whole - toy_bench().model.weights()).norm()
