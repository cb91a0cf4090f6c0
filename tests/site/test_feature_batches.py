"""Features computed once: the same training as on images, a view for each patch and step, kept beside the patches."""

import dataclasses

import numpy as np
import pytest
import torch

from medfl.data.batches import AugmentSpec
from medfl.messages import TrainRequest
from medfl.methods.core.chain import build_chain
from medfl.pipeline.build_site import pooled_site
from medfl.site.feature_batches import FeatureBatches, PooledFeatures
from medfl.site.shared_model import SharedModel
from medfl.site.site import Site
from medfl.testing.toy_network import BACKBONES
from tests.toys import toy_bench, toy_federation, toy_store, toy_work

STILL = AugmentSpec(flips=False, rotate90=False)
NET = {"backbone": BACKBONES[0], "train": "head"}


def sites_of(bench, views, augment=STILL, folder=None, sizes=(24, 16)):
    work = toy_work(views=views, augment=augment)
    made = {}
    for number, size in enumerate(sizes):
        store = dataclasses.replace(toy_store(f"site-{number}", number, train=size, size=8), folder=folder)
        made[store.site] = Site(store.site, "train", store, work, bench)
    return made


@pytest.mark.parametrize("method", [(), ("ecgr",), ("scaffold",), ("fedprox",), ("feddyn",)])
def test_features_once_are_the_same_run(method):
    ends = []
    for views in (0, 1):
        bench = toy_bench(method, **NET)
        sites = sites_of(bench, views)
        assert sites["site-0"].features_once == bool(views)
        federation, records = toy_federation(bench, sites, rounds=3, **({"momentum": 0.9}))
        ends.append((federation.run(), records))
    (images, first), (features, second) = ends
    torch.testing.assert_close(features.weights, images.weights, rtol=0, atol=1e-5)
    for one, two in zip(first, second, strict=True):
        for name in one["sites"]:
            assert two["sites"][name]["val"]["auroc"] == pytest.approx(one["sites"][name]["val"]["auroc"], abs=1e-5)


def test_a_head_trains_as_the_formula_says():
    """One step of plain gradient descent from the features, by hand."""
    bench = toy_bench(**NET)
    site = sites_of(bench, 1)["site-0"]
    model = bench.model
    weights = model.weights()
    size = 8 * 3
    matrix, bias = weights[:size].view(3, 8).double(), weights[size:].double()
    rows = torch.arange(24)
    site.training = toy_work(views=1, augment=STILL, batch_size=24, local_steps=1, momentum=0.0, lr=0.5)
    reply = site.handle(TrainRequest(0, weights, model.buffers(), ()))
    features, labels = site.batches.plain[rows].double(), torch.from_numpy(site.store.labels[:24])
    error = (features @ matrix.T + bias).softmax(1) - torch.nn.functional.one_hot(labels, 3)
    expected = torch.cat([(error.T @ features / 24).reshape(-1), error.mean(0)]) * 0.5
    torch.testing.assert_close(reply.update.double(), expected, rtol=1e-4, atol=1e-6)


def test_a_step_draws_a_view_for_each_patch():
    bench = toy_bench(**NET)
    site = sites_of(bench, 3, AugmentSpec(brightness=0.5), sizes=(24,))["site-0"]
    batches = site.batches
    assert isinstance(batches, FeatureBatches)
    tables = [batches.plain[:24], *batches.drawn]
    assert len(tables) == 3
    assert not torch.equal(tables[1], tables[0])
    assert not torch.equal(tables[1], tables[2])
    order = torch.arange(24).repeat(40, 1)
    seen = np.zeros(3)
    for features, labels in batches.training(order, seed=4):
        assert torch.equal(labels, batches.labels[:24])
        match = torch.stack([(features == table).all(1) for table in tables])
        assert match.any(0).all()
        seen += match.sum(1).numpy()
    assert (seen / seen.sum() > 0.28).all()
    again = [features for features, _ in batches.training(order, seed=4)]
    assert all(torch.equal(a, b[0]) for a, b in zip(again, batches.training(order, seed=4), strict=True))
    assert torch.equal(torch.cat(list(batches.evaluation(np.arange(30), 7))), batches.plain[:30])


def test_the_network_sees_a_patch_once_and_another_network_sees_it_anew(tmp_path, monkeypatch):
    def compute(augment=STILL, views=1, **net):
        bench = toy_bench(**NET | net)
        calls = []
        plain = bench.model.features
        monkeypatch.setattr(bench.model, "features", lambda x: calls.append(len(x)) or plain(x))
        site = sites_of(bench, views, augment, tmp_path, (24,))["site-0"]
        site.compute_features()
        return sum(calls), site.batches

    bright = AugmentSpec(brightness=0.5)
    first = compute()
    assert first[0] == 48  # every patch of the store
    again = compute()
    assert again[0] == 0
    assert torch.equal(again[1].plain, first[1].plain)
    assert compute(bright, 2)[0] == 32  # a batch of training patches, filled up; the plain ones are there
    assert compute(bright, 2)[0] == 0
    assert compute(AugmentSpec(brightness=0.4), 2)[0] == 32
    assert compute(seed=7)[0] == 48
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:-4])
    assert compute()[0] == 48


def test_the_pool_has_the_sites_features():
    bench = toy_bench(**NET)
    sites = sites_of(bench, 2, AugmentSpec(brightness=0.5))
    pooled = pooled_site(sites)
    assert isinstance(pooled.batches, PooledFeatures)
    assert pooled.batches.plain.shape[0] == len(pooled.store.labels) == 40
    torch.testing.assert_close(
        pooled.batches.plain[24:], bench.model.features(next(pooled.images.evaluation(np.arange(24, 40), 16)))
    )
    assert pooled.batches.drawn[0].shape[0] == 40


def test_a_method_that_changes_images_has_them():
    bench = toy_bench(("fedrdn",), **NET)
    assert not sites_of(bench, 1)["site-0"].features_once
    assert not sites_of(SharedModel(toy_bench(backbone=BACKBONES[0]).model, build_chain([])), 1)["site-0"].features_once


def test_pooling_is_part_of_what_features_are_kept_by():
    args = {"img_size": 8, "patch_size": 4, "depth": 1}
    kept = {}
    for pooling in (None, "cls", "cls+avg"):
        bench = toy_bench(backbone="test_vit", args=args, train="head", pooling=pooling)
        batches = sites_of(bench, 1, sizes=(24,))["site-0"].batches
        kept[pooling] = batches._settings(0, batches.rows)
        assert batches.plain.shape[1] == (128 if pooling == "cls+avg" else 64)
    assert "pooling" not in kept[None]  # as before there was such a key
    assert len({str(settings) for settings in kept.values()}) == 3
