"""What a site tells of its dyes, and its patches recomposed with those of others."""

import numpy as np
import pytest

from medfl.data.normalise import NoStain, dye_colours, tissue_density
from medfl.data.optics import EOSIN, HAEMATOXYLIN, stain_matrix, to_density, to_grey
from medfl.data.stain_exchange import DyeExchange, DyeSpread, dye_spread, patch_dyes

MEAN = np.array([0.65, 0.70, 0.29, 0.11, 0.92, 0.36])
BLUE, PINK = (0.75, 0.60, 0.28), (0.05, 0.85, 0.52)


def patches(count: int, dyes=(HAEMATOXYLIN, EOSIN)) -> np.ndarray:
    """u8[count, 24, 24, 3] of two dyes; some pixels have one alone."""
    amounts = np.random.default_rng(count).uniform(0.2, 1.5, (count, 24, 24, 2))
    amounts[:, :3, :, 0], amounts[:, 3:6, :, 1] = 0, 0
    return to_grey((amounts @ stain_matrix(*dyes)[:2]).astype(np.float32))


def test_a_spread_is_mean_and_covariance_of_the_patches():
    dyes, seen = patch_dyes(patches(12))
    assert seen.all()
    spread = dye_spread(dyes)
    np.testing.assert_allclose(spread.mean, stain_matrix(HAEMATOXYLIN, EOSIN)[:2].ravel(), atol=0.02)
    np.testing.assert_allclose(spread.covariance, np.cov(dyes.reshape(12, 6), rowvar=False))
    assert len(spread.numbers) == 27
    back = DyeSpread.of(spread.numbers)
    np.testing.assert_allclose(back.covariance, spread.covariance, atol=1e-6)
    assert back.numbers == spread.numbers


def test_draws_have_that_mean_and_covariance():
    covariance = np.diag([4e-4] * 6)
    covariance[0, 1] = covariance[1, 0] = 2e-4
    drawn = DyeSpread(MEAN, covariance).draw(np.random.default_rng(0), 4000)
    assert np.allclose(np.linalg.norm(drawn, axis=-1), 1)
    raw = stain_matrix(MEAN[:3], MEAN[3:])[:2].ravel()
    np.testing.assert_allclose(drawn.reshape(-1, 6).mean(0), raw, atol=0.003)
    wide = DyeSpread(MEAN, np.eye(6)).draw(np.random.default_rng(0), 500)  # clipped, and never one colour
    apart = np.linalg.norm(np.cross(wide[:, 0], wide[:, 1]), axis=-1)
    assert apart.min() >= 0.15
    assert (wide > 0).all()


def test_a_patch_keeps_its_amounts_and_gets_the_others_dyes():
    own = patches(4)
    dyes, _ = patch_dyes(own)
    exchange = DyeExchange(np.array([7, 3, 5, 1]), dyes, [DyeSpread(np.array([*BLUE, *PINK]), np.zeros((6, 6)))])
    transforms = exchange.transforms(np.array([3, 7]), np.random.default_rng(0))
    for transform, patch in zip(transforms, own[[1, 0]], strict=True):
        changed = to_grey(to_density(patch.reshape(-1, 3)) @ transform).reshape(1, 24, 24, 3)
        np.testing.assert_allclose(dye_colours(tissue_density(changed)), stain_matrix(BLUE, PINK)[:2], atol=0.02)
        before = to_density(patch) @ np.linalg.inv(stain_matrix(*patch_dyes(patch[None])[0][0]))[:, :2]
        after = to_density(changed[0]) @ np.linalg.inv(stain_matrix(BLUE, PINK))[:, :2]
        np.testing.assert_allclose(after.mean((0, 1)), before.mean((0, 1)), atol=0.03)


def test_a_patch_of_one_dye_is_separated_as_the_site_is_and_a_site_of_none_stays():
    one = patches(3)
    one[1] = to_grey(np.full((24, 24, 3), 0.5, np.float32) * np.asarray(EOSIN, np.float32))
    dyes, seen = patch_dyes(one)
    assert seen.tolist() == [True, False, True]
    other = [DyeSpread(MEAN, np.zeros((6, 6)))]
    rng = np.random.default_rng(0)
    transforms = DyeExchange(np.arange(3), dyes, other).transforms(np.arange(3), rng)
    assert np.isfinite(transforms).all()
    usual = stain_matrix(*dyes[[0, 2]].mean(0))
    np.testing.assert_allclose(transforms[1], np.linalg.inv(usual) @ stain_matrix(MEAN[:3], MEAN[3:]), rtol=1e-5)
    white = np.full((3, 24, 24, 3), 255, np.uint8)
    still = DyeExchange(np.arange(3), patch_dyes(white)[0], other).transforms(np.arange(3), rng)
    assert np.array_equal(still, np.broadcast_to(np.eye(3), (3, 3, 3)))


def test_too_few_patches_tell_nothing():
    with pytest.raises(NoStain, match="two dyes are seen in 3 of them, fewer than 8"):
        dye_spread(patch_dyes(patches(3))[0])


@pytest.mark.parametrize(
    "numbers",
    [
        [0.5] * 26,
        [float("nan"), *[0.1] * 26],
        [*MEAN, "0", *[0.0] * 20],
        [*MEAN[:3], *MEAN[:3], *[0.0] * 21],
        [*MEAN[:3], 0.0, 0.0, 0.0, *[0.0] * 21],
        [*MEAN, -0.1, *[0.0] * 20],
        [*MEAN, 2.0, *[0.0] * 20],
    ],
)
def test_numbers_that_no_dyes_have_are_refused(numbers):
    with pytest.raises(ValueError, match=r"dyes|numbers"):
        DyeSpread.of(numbers)
