"""Methods on a linear head over frozen features, against softmax regression in numpy, float64, formula by formula."""

import numpy as np
import pytest
import torch

from medfl.data.batches import AugmentSpec
from medfl.site.site import Site
from medfl.testing.toy_network import BACKBONES
from tests.toys import toy_bench, toy_federation, toy_store, toy_work

SIZES, STEPS, LR, ROUNDS = (24, 16), 3, 0.4, 3
STILL = AugmentSpec(flips=False, rotate90=False)
SHARES = np.array(SIZES) / sum(SIZES)
MU = ALPHA = 0.3


def gradient(w, features, labels):
    """Of the mean cross-entropy: w holds the matrix [3, 8], then the bias [3]."""
    matrix, bias = w[:24].reshape(3, 8), w[24:]
    logits = features @ matrix.T + bias
    shares = np.exp(logits - logits.max(1, keepdims=True))
    error = shares / shares.sum(1, keepdims=True) - np.eye(3)[labels]
    return np.concatenate([(error.T @ features / len(labels)).ravel(), error.mean(0)])


def walk(w, data, edit):
    """The points of a round's steps: `edit(gradient, point)` is what the optimiser takes."""
    points = [w]
    for _ in range(STEPS):
        points.append(points[-1] - LR * edit(gradient(points[-1], *data), points[-1]))
    return points


def fedprox(w, sites):
    for _ in range(ROUNDS):
        start = w
        ends = [walk(w, data, lambda g, y, start=start: g + MU * (y - start))[-1] for data in sites]
        w = SHARES @ ends
    return w


def scaffold(w, sites):
    c, own = np.zeros_like(w), [np.zeros_like(w) for _ in sites]
    for _ in range(ROUNDS):
        ends, new = [], []
        for data, mine in zip(sites, own, strict=True):
            points = walk(w, data, lambda g, y, mine=mine, c=c: g - mine + c)
            ends.append(points[-1])
            new.append(np.mean([gradient(point, *data) for point in points[:-1]], axis=0))
        c = c + np.mean([a - b for a, b in zip(new, own, strict=True)], axis=0)
        w, own = SHARES @ ends, new
    return w


def feddyn(w, sites):
    h, own = np.zeros_like(w), [np.zeros_like(w) for _ in sites]
    for _ in range(ROUNDS):
        start = w
        ends = [
            walk(w, data, lambda g, y, mine=mine, start=start: g - mine + ALPHA * (y - start))[-1]
            for data, mine in zip(sites, own, strict=True)
        ]
        own = [mine - ALPHA * (end - start) for mine, end in zip(own, ends, strict=True)]
        h = h - ALPHA * (SHARES @ [end - start for end in ends])
        w = SHARES @ ends - h / ALPHA
    return w


def ecgr(w, sites, keep=0.5, beta=0.2):
    for _ in range(ROUNDS):
        updates = []
        for data in sites:
            points = walk(w, data, lambda g, y: g)
            steps = -np.diff(points, axis=0)
            chosen, total = [], np.zeros_like(w)
            for _ in range(max(1, int(keep * STEPS))):
                free = [k for k in range(STEPS) if k not in chosen]
                chosen.append(min(free, key=lambda k: np.linalg.norm(total + steps[k])))
                total = total + steps[chosen[-1]]
            u = sum(steps[k] * (1 if k in chosen else beta) for k in range(STEPS))
            updates.append(u * np.linalg.norm(steps.sum(0)) / np.linalg.norm(u))
        w = w - SHARES @ updates
    return w


@pytest.mark.parametrize(
    ("method", "by_hand"),
    [
        ({"name": "fedprox", "mu": MU}, fedprox),
        ({"name": "scaffold"}, scaffold),
        ({"name": "feddyn", "alpha": ALPHA}, feddyn),
        ({"name": "ecgr", "keep": 0.5, "beta": 0.2}, ecgr),
    ],
    ids=lambda part: part["name"] if isinstance(part, dict) else "",
)
def test_a_federated_head_is_softmax_regression(method, by_hand):
    bench = toy_bench([method], backbone=BACKBONES[0], train="head")
    sites = {}
    for number, size in enumerate(SIZES):  # batches of all of a site's patches, so that their order means nothing
        work = toy_work(views=1, augment=STILL, batch_size=size, local_steps=STEPS, momentum=0.0, lr=LR)
        store = toy_store(f"site-{number}", number, train=size, size=8)
        sites[store.site] = Site(store.site, "train", store, work, bench)
    data = [
        (site.batches.plain[: len(site.store.splits["train"])].double().numpy(), site.store.labels[:size])
        for site, size in zip(sites.values(), SIZES, strict=True)
    ]
    start = bench.model.weights().double().numpy()
    federation, _ = toy_federation(bench, sites, rounds=ROUNDS)
    end = federation.run().weights.double().numpy()
    expected = by_hand(start, data)
    assert np.abs(expected - start).max() > 0.05
    np.testing.assert_allclose(end, expected, rtol=0, atol=2e-5)
    plain = start
    for _ in range(ROUNDS):
        plain = SHARES @ [walk(plain, one, lambda g, y: g)[-1] for one in data]
    assert np.abs(expected - plain).max() > 1e-3  # the method does something


def test_the_features_are_those_of_the_frozen_network():
    bench = toy_bench(backbone=BACKBONES[0], train="head")
    site = Site("a", "train", toy_store("a", 0, size=8), toy_work(views=1, augment=STILL), bench)
    images = torch.from_numpy(site.store.images[:3]).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in (bench.model.mean, bench.model.std))
    bench.model.net.eval()
    torch.testing.assert_close(site.batches.plain[:3], bench.model.features((images - mean) / std))
