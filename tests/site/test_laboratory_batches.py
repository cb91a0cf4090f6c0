"""Patches seen through random laboratories: restained before the network, also where features are computed once."""

import dataclasses

import numpy as np
import pytest
import torch

from medfl.data import stain
from medfl.data.batches import AugmentSpec
from medfl.messages import ScalingRequest, TemperatureRequest
from medfl.metrics.temperature import temperature_sums
from medfl.site import laboratory_batches
from medfl.site.evaluator import Evaluator
from medfl.site.fit_logits import FitLogits
from medfl.site.laboratory_batches import laboratories
from medfl.site.site import Site
from medfl.testing.toy_network import BACKBONES
from tests.toys import toy_bench, toy_store, toy_work

STILL = AugmentSpec(flips=False, rotate90=False)


def site_of(bench, views=0, folder=None, **work):
    store = dataclasses.replace(toy_store("site-0", 0, train=8, size=8), folder=folder)
    return Site("site-0", "train", store, toy_work(views=views, augment=STILL, **work), bench)


def restained_by_hand(site, view):
    """Logits of the validation patches, each restained on its own before anything is computed."""
    rows = site.store.splits["val"]
    images = np.array(site.store.images)
    for row in rows:
        drawn = view._stain(row)
        images[row] = stain.apply(site.store.images[row][None], drawn, 0.5)[0]
    other = Site("site-0", "train", dataclasses.replace(site.store, images=images), site.training, site.shared)
    return other.evaluator.logits(site.shared.model.weights(), site.shared.model.buffers(), "val")


@pytest.mark.parametrize("views", [0, 1])
def test_the_network_sees_restained_patches(views):
    """As images, and with the features of a frozen backbone, which are those of the restained patches."""
    bench = toy_bench(backbone=BACKBONES[0], train="head")
    site = site_of(bench, views)
    assert site.features_once == bool(views)
    model = (bench.model.weights(), bench.model.buffers())
    plain = site.evaluator.logits(*model, "val")
    ends = []
    for view in laboratories(site.batches, 2, 0.5):
        own = Evaluator(bench, site.store, view, 5).logits(*model, "val")
        np.testing.assert_allclose(own, restained_by_hand(site_of(bench), view), atol=1e-5)
        ends.append(own)
    assert not torch.allclose(ends[0], ends[1])
    assert not torch.allclose(ends[0], plain)


def test_a_laboratory_is_drawn_for_each_patch_and_not_for_a_message():
    bench = toy_bench()
    first, second = laboratories(site_of(bench).batches, 2, 0.5)
    rows = site_of(bench).store.splits["val"]
    whole = first.patches(rows)
    assert whole.tolist() == first.patches(rows).tolist()
    assert first.patches(rows[3:5]).tolist() == whole[3:5].tolist()
    assert len({first._stain(row) for row in rows} | {second._stain(row) for row in rows}) == 2 * len(rows)


def test_features_are_computed_once(tmp_path, monkeypatch):
    bench = toy_bench(backbone=BACKBONES[0], train="head")
    model = (bench.model.weights(), bench.model.buffers())
    first = Evaluator(bench, *_view(site_of(bench, 1, tmp_path))).logits(*model, "val")
    files = sorted(tmp_path.glob("features-*"))
    monkeypatch.setattr(laboratory_batches, "apply", None)  # nothing is restained again
    again = Evaluator(bench, *_view(site_of(bench, 1, tmp_path))).logits(*model, "val")
    torch.testing.assert_close(again, first, rtol=0, atol=1e-6)
    assert sorted(tmp_path.glob("features-*")) == files
    assert len(files) == 1


def _view(site):
    return site.store, laboratories(site.batches, 1, 0.5)[0], 256


@pytest.mark.parametrize(("count", "strength"), [(0, 0.5), (65, 0.5), (2, -0.1), (2, float("nan"))])
def test_what_cannot_be_drawn_is_refused(count, strength):
    with pytest.raises(ValueError, match="laboratories of strength"):
        laboratories(site_of(toy_bench()).batches, count, strength)


def test_a_patch_counts_once_through_however_many_laboratories():
    bench = toy_bench()
    site = site_of(bench)
    model = (0, bench.model.weights(), bench.model.buffers())
    request = TemperatureRequest(*model, ("val",), temperatures=(1.0, 2.0), laboratories=3, stain_strength=0.5)
    told = site.handle(request).sums["val"]["temperatures"]
    labels = site.store.labels[site.store.splits["val"]]
    seen = [Evaluator(bench, site.store, v, 256).logits(*model[1:], "val") for v in laboratories(site.batches, 3, 0.5)]
    each = [temperature_sums(z.numpy(), labels, (1.0, 2.0)).nll for z in seen]
    assert told["nll"] == pytest.approx(np.mean(each, axis=0).tolist(), rel=1e-9)
    assert (told["n"], told["groups"]) == (12, 6)
    again = ScalingRequest(*model, ("val",), points=(1.0,) * 3 + (0.0,) * 3, laboratories=3, stain_strength=0.5)
    assert site.handle(again).sums["val"]["scaling"]["nll"][0] == pytest.approx(told["nll"][0], rel=1e-9)


def test_the_logits_of_a_model_serve_every_message_of_a_fit(monkeypatch):
    bench = toy_bench()
    site, calls = site_of(bench), []
    forward = Evaluator.logits_of_each
    monkeypatch.setattr(Evaluator, "logits_of_each", lambda self, *model: calls.append(1) or forward(self, *model))
    weights, buffers = bench.model.weights(), bench.model.buffers()

    def asked(weights, **how):
        request = TemperatureRequest(0, weights, buffers, ("val",), temperatures=(1.0,), **how)
        return FitLogits.of(logits, request, site.evaluator, site.batches, weights, buffers)[0]

    logits = FitLogits()
    one = asked(weights)
    assert asked(weights.clone()) is one
    assert len(calls) == 1
    assert not torch.equal(asked(weights * 2), one)
    assert len(asked(weights * 2, laboratories=2, stain_strength=0.5)) == 2 * len(one)
    site.store.splits["val"] = site.store.splits["val"][:5]
    assert len(asked(weights * 2, laboratories=2, stain_strength=0.5)) == 10
