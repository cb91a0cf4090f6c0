"""A site's round: equality with plain PyTorch, seeds, state, refusals."""

import numpy as np
import pytest
import timm
import torch

from medfl.data.batches import AugmentSpec, Batches, at_once, epoch_order
from medfl.messages import EvaluateRequest, TrainRequest, message_bytes
from medfl.seeds import seed_for
from medfl.site.evaluator import SiteDiverged
from medfl.site.local_training import class_weights
from medfl.site.site import Site
from tests.toys import CLASSES, toy_bench, toy_store, toy_work


def request(bench, round_=0, **changes):
    return TrainRequest(round_, bench.model.weights(), bench.model.buffers(), **changes)


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_one_site_is_plain_sgd_made_anew_each_round(momentum):
    work = toy_work(momentum=momentum, weight_decay=1e-3, lr=0.01)
    bench = toy_bench(seed=4, backbone="test_resnet")
    store = toy_store("solo", 1, train=24)
    site = Site("solo", "train", store, work, bench)
    weights, buffers = bench.model.weights(), bench.model.buffers()

    torch.manual_seed(4)
    plain = timm.create_model("test_resnet", num_classes=len(CLASSES))
    batches = Batches(store, torch.device("cpu"), bench.model.mean, bench.model.std, work.augment)
    for t in range(3):
        reply = site.handle(TrainRequest(t, weights, buffers))
        weights, buffers = weights - reply.update, reply.buffers
        plain.train()
        stepper = torch.optim.SGD(plain.parameters(), lr=0.01, momentum=momentum, weight_decay=1e-3)
        seed = seed_for(work.seed, "train", t, "solo")
        for images, labels in batches.training(epoch_order(store.splits["train"], 8, 3, seed), seed):
            stepper.zero_grad()
            torch.nn.functional.cross_entropy(plain(images), labels).backward()
            stepper.step()
    expected = torch.cat([p.detach().reshape(-1) for p in plain.parameters()])
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-6)
    named = dict(plain.named_buffers())
    statistics = torch.cat([named[s.name].reshape(-1) for s in bench.model.buffer_layout.slots])
    torch.testing.assert_close(buffers, statistics, rtol=1e-5, atol=1e-6)


def test_a_rounded_update_is_the_update_rounded():
    replies = []
    for dtype in (torch.float32, torch.bfloat16):
        bench = toy_bench(seed=4)
        site = Site("solo", "train", toy_store("solo", 1), toy_work(update_dtype=dtype), bench)
        replies.append(site.handle(request(bench)))
    plain, rounded = replies
    assert rounded.update.dtype == torch.float32
    assert torch.equal(rounded.update, plain.update.to(torch.bfloat16).float())
    assert not torch.equal(rounded.update, plain.update)
    assert torch.equal(rounded.buffers, plain.buffers)
    assert message_bytes(plain) - message_bytes(rounded) == 2 * len(plain.update)


def test_adamw_lowers_the_loss():
    bench = toy_bench()
    site = Site("solo", "train", toy_store("solo", 1), toy_work(optimizer="adamw", lr=0.003, local_steps=12), bench)
    first = site.handle(request(bench))
    weights, buffers = bench.model.weights(), bench.model.buffers()
    assert site.handle(TrainRequest(1, weights, buffers)).train_loss < first.train_loss


def test_a_step_is_shortened_to_the_norm_and_smoothing_is_torchs():
    bench = toy_bench(**{"train": "head", "backbone": "test_resnet"})
    asked = request(bench)
    plain, clipped, smooth = (
        Site("solo", "train", toy_store("solo", 1), toy_work(momentum=0.0, lr=1.0, local_steps=1, **work), bench)
        for work in ({}, {"clip": 0.01}, {"label_smoothing": 0.2})
    )
    update = plain.handle(asked).update
    short = clipped.handle(asked).update
    assert update.norm() > 0.02
    torch.testing.assert_close(short, 0.01 * update / update.norm(), rtol=1e-3, atol=1e-6)
    again = smooth.handle(asked)
    assert not torch.allclose(again.update, update, atol=1e-4)


def test_channels_last_trains_to_the_same_weights():
    replies = []
    for channels_last in (False, True):
        bench = toy_bench(seed=4, backbone="test_resnet", channels_last=channels_last)
        site = Site("solo", "train", toy_store("solo", 1), toy_work(lr=0.01), bench)
        replies.append(site.handle(request(bench)).update)
    torch.testing.assert_close(replies[0], replies[1], rtol=1e-3, atol=1e-5)


def test_a_repeated_request_gets_the_same_reply_and_another_round_another():
    bench = toy_bench(["ecgr"])
    site = Site("solo", "train", toy_store("solo", 1), toy_work(), bench)
    message = request(bench)
    first, again = site.handle(message), site.handle(message)
    assert torch.equal(first.update, again.update)
    later = site.handle(TrainRequest(1, message.weights, message.buffers))
    assert not torch.equal(first.update, later.update)


def test_every_patch_is_seen_each_epoch_in_full_batches():
    rows = np.arange(100, 121)
    order = epoch_order(rows, 8, 3, seed=1)
    assert order.shape == (3, 8)
    assert set(order.flatten().tolist()) == set(rows.tolist())
    assert sorted(order.flatten()[:21].tolist()) == rows.tolist()
    assert toy_work(local_epochs=2).steps(21) == 6
    assert toy_work(local_steps=5).steps(21) == 5


def test_augmentation_draws_all_eight_symmetries_and_only_those():
    square = np.arange(9, dtype=np.uint8).reshape(1, 3, 3, 1).repeat(3, axis=3)
    store = toy_store("x", 0)
    object.__setattr__(store, "images", square.repeat(64, axis=0))
    object.__setattr__(store, "labels", np.zeros(64, dtype=np.int64))
    batches = Batches(store, torch.device("cpu"), (0.0,) * 3, (1.0,) * 3, AugmentSpec())
    images, _ = next(batches.training(torch.arange(64)[None], seed=0))
    seen = {tuple((image[0] * 255).round().int().flatten().tolist()) for image in images}
    grid = torch.arange(9).view(3, 3)
    turns = [torch.rot90(g, k) for g in (grid, grid.T) for k in range(4)]
    assert seen == {tuple(t.flatten().tolist()) for t in turns}


def test_colour_jitter_changes_colours_within_range():
    store = toy_store("x", 0)
    plain = Batches(store, torch.device("cpu"), (0.0,) * 3, (1.0,) * 3, AugmentSpec(flips=False, rotate90=False))
    bright = Batches(
        store, torch.device("cpu"), (0.0,) * 3, (1.0,) * 3, AugmentSpec(flips=False, rotate90=False, brightness=0.3)
    )
    order = torch.arange(8)[None]
    ratio = next(bright.training(order, 1))[0].mean((1, 2, 3)) / next(plain.training(order, 1))[0].mean((1, 2, 3))
    assert ((ratio > 0.69) & (ratio < 1.31)).all()
    assert ratio.std() > 0.01


def test_jitter_runs_on_training_batches_only():
    calls = []

    def jitter(images, seed):
        calls.append(seed)
        return 255 - images

    bench = toy_bench()
    site = Site("solo", "train", toy_store("solo", 1), toy_work(), bench, jitter=jitter)
    site.handle(request(bench, splits=("val",)))
    assert len(calls) == 3
    assert len(set(calls)) == 3


def test_weighted_loss_weighs_classes_by_inverse_frequency():
    store = toy_store("solo", 1, train=24)
    weights = class_weights(store.labels[store.splits["train"]], 3)
    counts = np.bincount(store.labels[store.splits["train"]], minlength=3)
    np.testing.assert_allclose(weights.numpy() * counts, 24 / 3, rtol=1e-6)


def test_with_class_weights_the_loss_is_the_plain_nll_and_the_objective_is_told_apart():
    """`loss` and `nll` of a model are the same whatever it is trained with; `train_loss` is the weighted objective."""
    bench, store = toy_bench(), toy_store("solo", 1, train=24)
    store.labels[store.splits["train"]] = np.repeat([0, 1, 2], [20, 3, 1])
    plain, weighted = (
        Site("solo", "train", store, toy_work(weighted_loss=way, local_steps=1, batch_size=24, lr=0.0), bench)
        for way in (False, True)
    )
    message = request(bench, splits=("val",))
    one, other = (site.handle(message) for site in (plain, weighted))
    assert one.metrics["val"] == other.metrics["val"]
    assert other.metrics["val"]["loss"] == other.metrics["val"]["nll"]
    assert one.train_loss != pytest.approx(other.train_loss, rel=1e-3)


def test_metrics_describe_the_incoming_model_not_the_trained_one():
    bench = toy_bench()
    site = Site("solo", "train", toy_store("solo", 1), toy_work(), bench)
    message = request(bench, splits=("val",))
    both = site.handle(message)
    only = site.handle(EvaluateRequest(0, message.weights, message.buffers, ("val",)))
    assert both.metrics["val"] == only.metrics["val"]
    assert only.update is None


def test_local_buffers_stay_and_are_still_uploaded():
    bench = toy_bench(backbone="test_resnet")
    site = Site("solo", "train", toy_store("solo", 1), toy_work(), bench, buffers="local")
    message = request(bench)
    reply = site.handle(message)
    kept = EvaluateRequest(1, message.weights, message.buffers, ("val",), last_accepted_round=0)
    site.handle(kept)
    assert torch.equal(site.own_model(message.weights, message.buffers)[1], reply.buffers)
    lost = Site("solo", "train", toy_store("solo", 1), toy_work(), bench, buffers="local")
    lost.handle(message)
    lost.handle(EvaluateRequest(1, message.weights, message.buffers, ("val",), last_accepted_round=-1))
    assert torch.equal(lost.own_model(message.weights, message.buffers)[1], message.buffers)


def test_a_held_out_site_refuses_to_train():
    bench = toy_bench()
    site = Site("far", "held_out", toy_store("far", 1, train=0), toy_work(), bench)
    with pytest.raises(ValueError, match="held out"):
        site.handle(request(bench))
    with pytest.raises(ValueError, match="no split"):
        site.handle(EvaluateRequest(0, bench.model.weights(), bench.model.buffers(), ("val",)))


def test_divergence_is_named():
    bench = toy_bench()
    site = Site("solo", "train", toy_store("solo", 1), toy_work(lr=1e30), bench)
    with pytest.raises(SiteDiverged, match="round 0"):
        site.handle(request(bench))


@pytest.mark.parametrize(
    ("batch_size", "size", "device", "expected"),
    [(256, 64, "cpu", 64), (256, 128, "cpu", 16), (256, 512, "cpu", 8), (4, 128, "cpu", 4), (256, 128, "cuda", 256)],
)
def test_a_cpu_takes_fewer_patches_at_a_time(batch_size, size, device, expected):
    assert at_once(batch_size, size, torch.device(device)) == expected


def test_parts_are_about_as_long_as_each_other_and_change_no_score(monkeypatch):
    bench = toy_bench()
    site = Site("solo", "train", toy_store("solo", 1), toy_work(), bench)
    rows, model = site.store.splits["val"], (bench.model.weights(), bench.model.buffers())
    whole = site.evaluator.logits(*model, rows)
    monkeypatch.setattr("medfl.data.batches.CPU_PIXELS", 0)
    monkeypatch.setattr("medfl.data.batches.CPU_PATCHES", 5)
    lengths = [len(images) for images in site.batches.evaluation(rows, 256)]
    assert sum(lengths) == len(rows)
    assert max(lengths) <= 5
    assert max(lengths) - min(lengths) <= 1
    torch.testing.assert_close(site.evaluator.logits(*model, rows), whole)


def test_a_last_batch_that_is_filled_up_changes_no_score():
    bench = toy_bench()
    site = Site("solo", "train", toy_store("solo", 1), toy_work(eval_batch_size=7), bench)
    rows = site.store.splits["val"]
    shapes = [len(images) for images in site.batches.evaluation(rows, 7, full=True)]
    assert shapes == [7, 7]
    model = bench.model.weights(), bench.model.buffers()
    plain = site.evaluator.logits(*model, rows)
    bench.compiled = True  # only asked about the shape of batches from here on
    torch.testing.assert_close(site.evaluator.logits(*model, rows), plain)
    assert len(site.evaluator.logits(*model, rows[:0])) == 0
