"""Statistics of a laboratory's stain, and patches brought from one laboratory to another."""

from __future__ import annotations

import numpy as np
import pytest

from medfl.data.normalise import (
    FIXED,
    METHODS,
    DensityStatistics,
    DyeStatistics,
    NoStain,
    mean_statistics,
    normalise,
    stain_statistics,
    statistics_of,
    tissue_density,
)
from medfl.data.optics import EOSIN, HAEMATOXYLIN, stain_matrix, to_density, to_grey
from medfl.data.stain import PROFILES, apply
from medfl.data.synthetic.tissue import TISSUE_CLASSES, draw_copies

WHITE = np.full((4, 16, 16, 3), 255, np.uint8)


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    return np.concatenate([draw_copies(label, 3, index, 48, 1) for label in TISSUE_CLASSES for index in range(2)])


def mixture(rng: np.random.Generator, amounts: tuple[float, float]) -> np.ndarray:
    """Patches u8[4, 32, 32, 3] of two dyes: every pixel some of each, some pixels one alone."""
    own = rng.uniform(0, 1, (4, 32, 32, 2)) * amounts
    own[:, :4, :, 0], own[:, 4:8, :, 1] = 0, 0
    return to_grey((own @ stain_matrix(HAEMATOXYLIN, EOSIN)[:2]).astype(np.float32))


def test_reinhard_measures_mean_and_deviation_of_tissue_density_alone() -> None:
    rng = np.random.default_rng(0)
    patches = rng.integers(40, 160, (5, 8, 8, 3), dtype=np.uint8)
    both = np.concatenate([patches, np.full((20, 8, 8, 3), 255, np.uint8)])
    density = to_density(patches.reshape(-1, 3)).astype(float)
    own = stain_statistics(both)
    np.testing.assert_allclose(own.numbers, [*density.mean(0), *density.std(0)], rtol=1e-5)


def test_reinhard_gives_the_targets_mean_and_deviation() -> None:
    rng = np.random.default_rng(1)
    patches = rng.integers(60, 160, (5, 16, 16, 3), dtype=np.uint8)
    target = DensityStatistics((0.9, 1.1, 0.8), (0.25, 0.2, 0.3))
    after = stain_statistics(normalise(patches, stain_statistics(patches), target))
    np.testing.assert_allclose(after.numbers, target.numbers, atol=0.01)


def test_macenko_finds_the_dyes_and_their_amounts() -> None:
    own = stain_statistics(mixture(np.random.default_rng(2), (1.5, 1.0)), "macenko")
    assert isinstance(own, DyeStatistics)
    np.testing.assert_allclose(own.haematoxylin, stain_matrix(HAEMATOXYLIN, EOSIN)[0], atol=0.02)
    np.testing.assert_allclose(own.eosin, stain_matrix(HAEMATOXYLIN, EOSIN)[1], atol=0.02)
    np.testing.assert_allclose(own.amounts, (1.5, 1.0), atol=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_another_laboratorys_patches_come_nearer(tissue: np.ndarray, method: str) -> None:
    target = stain_statistics(tissue, method)
    for name in ("brownish_old", "blue_overstained", "faded"):
        other = apply(tissue, PROFILES[name])
        back = normalise(other, stain_statistics(other, method), target)
        before, after = (np.abs(images.astype(float) - tissue).mean() for images in (other, back))
        assert after < before / 2, name


@pytest.mark.parametrize("method", METHODS)
def test_towards_itself_nothing_changes(tissue: np.ndarray, method: str) -> None:
    own = stain_statistics(tissue, method)
    assert np.array_equal(normalise(tissue, own, own), tissue)
    nearly = statistics_of([number * (1 + 1e-5) for number in own.numbers])
    assert np.array_equal(normalise(tissue, own, nearly), tissue)


@pytest.mark.parametrize("method", METHODS)
def test_what_has_no_stain_is_told_in_a_sentence(method: str) -> None:
    with pytest.raises(NoStain, match="only empty slide"):
        stain_statistics(WHITE, method)
    with pytest.raises(NoStain, match=r"one colour|one dye"):
        stain_statistics(np.full((3, 16, 16, 3), (150, 80, 140), np.uint8), method)


def test_macenko_refuses_a_single_dye_and_takes_three_patches() -> None:
    patches = mixture(np.random.default_rng(3), (1.5, 0.0))
    with pytest.raises(NoStain, match="only one dye"):
        stain_statistics(patches, "macenko")
    assert np.isfinite(stain_statistics(mixture(np.random.default_rng(3), (1.0, 1.0))[:3], "macenko").numbers).all()


@pytest.mark.parametrize("method", METHODS)
def test_white_and_constant_patches_of_a_stained_site_stay_grey_levels(tissue: np.ndarray, method: str) -> None:
    own = stain_statistics(tissue, method)
    for grey in (0, 128, 254, 255):
        patch = np.full((1, 4, 4, 3), grey, np.uint8)
        result = normalise(patch, own, FIXED[method])
        assert (result.shape, result.dtype) == (patch.shape, np.uint8)
        assert (result == result[0, 0, 0]).all()
    white = normalise(WHITE, own, FIXED[method])
    assert method == "reinhard" or (white == 255).all()


def test_a_reference_is_the_mean_of_the_sites() -> None:
    one, other = (
        DensityStatistics((0.2, 0.4, 0.6), (0.1, 0.1, 0.1)),
        DensityStatistics((0.4, 0.8, 0.2), (0.3, 0.1, 0.2)),
    )
    np.testing.assert_allclose(mean_statistics([one, other]).numbers, [0.3, 0.6, 0.4, 0.2, 0.1, 0.15])
    with pytest.raises(ValueError, match="all of one method"):
        mean_statistics([one, FIXED["macenko"]])
    with pytest.raises(ValueError, match="all of one method"):
        mean_statistics([])


@pytest.mark.parametrize("method", METHODS)
def test_statistics_survive_as_numbers(method: str) -> None:
    assert statistics_of(FIXED[method].numbers) == FIXED[method]


@pytest.mark.parametrize(
    "numbers",
    [
        [0.1] * 5,
        [float("nan"), *[0.1] * 5],
        [0.5, 0.5, 0.5, 0.1, 0.1, 0.0],
        [0.5, 0.5, 0.5, 0.1, 0.1, 1e9],
        ["0.5", *[0.1] * 5],
        [*HAEMATOXYLIN, *HAEMATOXYLIN, 1.0, 1.0],
        [*HAEMATOXYLIN, *EOSIN, 1.0, 0.0],
        [0.0, 0.0, 0.0, *EOSIN, 1.0, 1.0],
    ],
)
def test_numbers_that_no_tissue_has_are_refused(numbers: list[float]) -> None:
    with pytest.raises(ValueError, match=r"stain|dyes"):
        statistics_of(numbers)


def test_bad_patches_and_methods_are_refused(tissue: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        stain_statistics(tissue.astype(np.float32))
    with pytest.raises(ValueError, match="uint8"):
        stain_statistics(tissue[:0])
    with pytest.raises(ValueError, match="no method"):
        stain_statistics(tissue, "vahadane")
    with pytest.raises(ValueError, match="two methods"):
        normalise(tissue, FIXED["reinhard"], FIXED["macenko"])


def test_large_sites_are_looked_at_on_a_grid() -> None:
    patches = np.random.default_rng(4).integers(0, 200, (40, 256, 256, 3), dtype=np.uint8)
    density = tissue_density(patches)
    assert len(density) <= 1 << 20
    np.testing.assert_allclose(
        stain_statistics(patches).numbers[:3], to_density(patches[:4]).mean((0, 1, 2)), atol=0.05
    )
