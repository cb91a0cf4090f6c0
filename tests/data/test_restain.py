"""Laboratories drawn for training patches: the torch form against numpy's, and draws that repeat."""

import dataclasses

import numpy as np
import pytest
import torch

from medfl.data.batches import AugmentSpec, Batches
from medfl.data.normalise import stain_statistics
from medfl.data.restain import draw_laboratories, restain
from medfl.data.stain import Stain, apply, random_laboratories, random_stain
from medfl.data.stain_exchange import DyeExchange, DyeSpread
from tests.toys import toy_store

PATCHES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
PATCHES[0], PATCHES[1], PATCHES[2] = 255, 0, (150, 80, 140)
PLANES = torch.from_numpy(PATCHES).permute(0, 3, 1, 2)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_on_the_device_it_is_what_a_site_renders(layout, strength):
    stains = [random_stain(np.random.default_rng(seed)) for seed in range(len(PATCHES))]
    expected = np.concatenate([apply(PATCHES[n : n + 1], stain, strength) for n, stain in enumerate(stains)])
    partial = [stain.at(strength) for stain in stains]
    transforms = torch.from_numpy(np.stack([stain.transform() for stain in partial]))
    white = torch.tensor([stain.white for stain in partial])
    images = PLANES.contiguous(memory_format=layout)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # features of views are made under it
        result = restain(images, transforms, white)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=layout)
    grey = result.permute(0, 2, 3, 1).numpy() * 255
    assert np.abs(grey - expected).max() <= 0.5 + 1e-2  # it is not rounded
    assert torch.equal(images, PLANES)


@pytest.mark.parametrize("strength", [0.25, 1.0])
def test_laboratories_at_once_are_those_of_one_stain_each(strength):
    transforms, white = random_laboratories(np.random.default_rng(5), 1, strength)
    one = random_stain(np.random.default_rng(5)).at(strength)
    np.testing.assert_allclose(transforms[0], one.transform(), rtol=1e-5)
    np.testing.assert_allclose(white[0], one.white, rtol=1e-6)
    many, _ = random_laboratories(np.random.default_rng(6), 150, strength)
    alone = np.stack([random_stain(np.random.default_rng(n)).at(strength).transform() for n in range(150)])
    np.testing.assert_allclose(many.mean(0), alone.mean(0), atol=0.2 * strength + 0.02)
    np.testing.assert_allclose(many.std(0), alone.std(0), atol=0.2 * strength + 0.02)
    still, clear = random_laboratories(np.random.default_rng(5), 2, 0.0)
    np.testing.assert_allclose(still, np.broadcast_to(Stain().transform(), (2, 3, 3)), atol=1e-6)
    assert (clear == 255).all()


def test_draws_belong_to_a_seed_and_to_nothing_else():
    rows = np.arange(8).reshape(2, 4)
    one, same, other = (draw_laboratories(rows, seed, 0.5) for seed in (1, 1, 2))
    assert one is not None
    assert torch.equal(one.transforms, same.transforms)
    assert torch.equal(one.white, same.white)
    assert not torch.equal(one.transforms, other.transforms)
    assert one.transforms.shape == (2, 4, 3, 3)
    assert len(one.transforms.view(-1, 9).unique(dim=0)) == 8
    assert draw_laboratories(rows, 1, 0.0) is None
    assert draw_laboratories(rows, 1, 0.0, share=0.5) is None


def test_a_share_of_patches_is_given_the_dyes_of_others():
    spread = DyeSpread(np.array([0.6, 0.7, 0.3, 0.1, 0.9, 0.4]), np.eye(6) * 1e-3)
    dyes = np.tile([[0.5, 0.8, 0.3], [0.2, 0.9, 0.3]], (100, 1, 1))
    exchange = DyeExchange(np.arange(100), dyes, [spread])
    drawn = draw_laboratories(np.arange(100).reshape(1, 100), 3, 0.0, 0.25, exchange)
    changed = (drawn.transforms[0] - torch.eye(3)).abs().amax((1, 2)) > 1e-6
    assert 15 <= int(changed.sum()) <= 35
    assert (drawn.white == 255).all()
    both = draw_laboratories(np.arange(100).reshape(1, 100), 3, 0.5, 0.25, exchange)
    alone = draw_laboratories(np.arange(100).reshape(1, 100), 3, 0.5)
    torch.testing.assert_close(both.transforms, drawn.transforms @ alone.transforms)


def test_batches_of_training_are_restained_and_those_of_evaluation_are_not():
    store, plain = toy_store("site", 0, size=16), AugmentSpec(flips=False, rotate90=False)
    batches = {
        strength: Batches(
            store, torch.device("cpu"), (0.0,) * 3, (1.0,) * 3, dataclasses.replace(plain, stain=strength)
        )
        for strength in (0.0, 1.0)
    }
    order = torch.arange(16).view(2, 8)
    first = {s: torch.cat([images for images, _ in b.training(order, 7)]) for s, b in batches.items()}
    again = torch.cat([images for images, _ in batches[1.0].training(order, 7)])
    assert torch.equal(first[1.0], again)
    assert (first[1.0] - first[0.0]).abs().amax((1, 2, 3)).min() > 0.01  # each patch
    assert 0 <= first[1.0].min() <= first[1.0].max() <= 1
    rows = np.arange(16)
    shown = [torch.cat(list(b.evaluation(rows, 8))) for b in batches.values()]
    assert torch.equal(*shown)
    assert stain_statistics(store.images) != stain_statistics((first[1.0] * 255).byte().permute(0, 2, 3, 1).numpy())
