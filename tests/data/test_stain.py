"""The stain transform against hand-derived optics, and the shipped sites against each other."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from medfl.data.optics import EOSIN, HAEMATOXYLIN, stain_matrix, to_density, to_grey
from medfl.data.stain import PROFILES, Stain, apply, mean_tissue_rgb, profile, random_stain
from medfl.data.synthetic.tissue import TISSUE_CLASSES, draw_copies
from medfl.errors import MedflError
from tests.paths import ROOT

SITES = {file.stem: yaml.safe_load(file.read_text()) for file in sorted((ROOT / "site_configs").glob("*.yaml"))}
LC25000 = Path(os.environ.get("MEDFL_LC25000", ROOT.parent / "shared" / "lc25000"))


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    return np.concatenate([draw_copies(label, 5, index, 64, 1) for label in TISSUE_CLASSES for index in range(6)])


@pytest.fixture(scope="module")
def real() -> np.ndarray:
    from PIL import Image

    if not LC25000.is_dir():
        pytest.skip("LC25000 is not here; set MEDFL_LC25000 to its folder")
    files = [sorted(LC25000.glob(f"*/{label}/*.jpeg"))[::60][:12] for label in TISSUE_CLASSES]
    return np.stack([Image.open(f).convert("RGB").resize((96, 96)) for f in itertools.chain(*files)])


# optics


def test_every_grey_level_survives_density_and_back() -> None:
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 256, 3)
    assert np.array_equal(to_grey(to_density(levels)), levels)


def test_density_of_a_level_is_the_natural_log_of_its_transmission() -> None:
    density = to_density(np.array([255, 127, 63, 0], dtype=np.uint8))
    np.testing.assert_allclose(density, np.log([1, 2, 4, 256]), rtol=1e-6)


def test_stain_matrix_has_unit_rows_and_an_orthogonal_residual() -> None:
    # (3, 4, 0)/5 and (0, 0, 1): their cross product is (4, -3, 0)/5
    np.testing.assert_allclose(stain_matrix((3, 4, 0), (0, 0, 9)), [[0.6, 0.8, 0], [0, 0, 1], [0.8, -0.6, 0]])


# the transform


@pytest.mark.parametrize("name", PROFILES)
def test_strength_zero_returns_the_same_bits(name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 33, 17, 3), dtype=np.uint8)
    stained = apply(noise, PROFILES[name], strength=0)
    assert np.array_equal(stained, noise)
    assert not np.shares_memory(stained, noise)


def test_the_reference_stain_is_the_identity_by_arithmetic_too() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (3, 200, 200, 3), dtype=np.uint8)
    assert np.array_equal(apply(noise, Stain()), noise)


def test_known_amounts_of_dye_come_out_in_the_other_laboratorys_colours() -> None:
    """Amounts (0.9 H, 0.4 E) under the reference become gain * amounts under the site's own rows; in float64."""
    amounts = np.array([0.9, 0.4])
    here = np.array([HAEMATOXYLIN, EOSIN]) / np.linalg.norm([HAEMATOXYLIN, EOSIN], axis=1, keepdims=True)
    patch = np.round(256 * np.exp(-amounts @ here) - 1).astype(np.uint8).reshape(1, 1, 1, 3)
    site = Stain((0.5, 0.7, 0.5), (0.2, 0.8, 0.6), gain=(1.3, 0.7), gamma=1.1, white=(250, 240, 230))
    there = np.array([site.haematoxylin, site.eosin]) / np.linalg.norm([site.haematoxylin, site.eosin], axis=1)[:, None]
    expected = np.array([251, 241, 231]) * np.exp(-1.1 * (amounts * [1.3, 0.7]) @ there) - 1
    assert np.abs(apply(patch, site)[0, 0, 0] - expected).max() <= 1.5  # the input was rounded to whole levels


def test_empty_slide_becomes_the_white_point() -> None:
    white = np.full((1, 4, 4, 3), 255, dtype=np.uint8)
    assert apply(white, Stain(white=(240, 200, 7))).reshape(-1, 3).tolist() == [[240, 200, 7]] * 16


def test_gamma_is_a_power_on_transmitted_light() -> None:
    patch = np.full((1, 1, 1, 3), 127, dtype=np.uint8)  # transmission 1/2, squared 1/4, level 256/4 - 1
    assert apply(patch, Stain(gamma=2)).tolist() == [[[[63, 63, 63]]]]


def test_what_no_stain_explains_is_kept() -> None:
    """A pixel off the plane of the two stains keeps its residual density, turned to the site's normal."""
    residual = stain_matrix(HAEMATOXYLIN, EOSIN)[2]
    transform = Stain((0.5, 0.7, 0.5), (0.2, 0.8, 0.6)).transform()
    np.testing.assert_allclose(residual @ transform, stain_matrix((0.5, 0.7, 0.5), (0.2, 0.8, 0.6))[2], atol=1e-6)


def test_strength_moves_smoothly_from_reference_to_profile(tissue: np.ndarray) -> None:
    means = [mean_tissue_rgb(apply(tissue, PROFILES["brownish_old"], s)) for s in (0, 0.25, 0.5, 0.75, 1)]
    steps = [float(np.linalg.norm(b - a)) for a, b in itertools.pairwise(means)]
    assert min(steps) > 4
    assert max(steps) < 2 * min(steps)
    np.testing.assert_allclose(PROFILES["faded"].at(1).transform(), PROFILES["faded"].transform(), rtol=1e-5, atol=1e-6)
    assert PROFILES["faded"].at(0.5).gain == pytest.approx((0.76, 0.79))  # half way from 1 to 0.52 and 0.58


def test_many_patches_are_stained_as_each_alone(tissue: np.ndarray) -> None:
    stain = PROFILES["violet_rich"]
    together = apply(tissue, stain, 0.7)
    assert all(np.array_equal(together[k], apply(tissue[k : k + 1], stain, 0.7)[0]) for k in range(len(tissue)))


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        ({"gain": (1.0, 0.0)}, "gain"),
        ({"gamma": float("nan")}, "gamma"),
        ({"gamma": -1.0}, "gamma"),
        ({"white": (255, 255, float("inf"))}, "white"),
        ({"white": (256, 255, 255)}, "white"),
        ({"haematoxylin": (0.6, 0.7)}, "haematoxylin"),
        ({"eosin": (0.1, -0.9, 0.3)}, "eosin"),
        ({"eosin": HAEMATOXYLIN}, "two different colours"),
    ],
)
def test_impossible_stains_are_refused_by_name(fault: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Stain(**fault)  # type: ignore[arg-type]


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_strength_lies_between_nothing_and_all(strength: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        apply(np.zeros((1, 2, 2, 3), np.uint8), Stain(), strength)


def test_patches_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match=r"uint8 \[N, H, W, 3\], got float32 \[2, 2, 3\]"):
        apply(np.zeros((2, 2, 3), np.float32), Stain())  # type: ignore[arg-type]


def test_an_unknown_profile_names_its_neighbours() -> None:
    assert profile("faded") is PROFILES["faded"]
    with pytest.raises(MedflError, match=r'no profile "violet_ritch".*Did you mean "violet_rich"'):
        profile("violet_ritch")


def test_lists_from_yaml_make_the_same_stain() -> None:
    assert Stain(gain=[1, 2]) == Stain(gain=(1.0, 2.0))  # type: ignore[arg-type]
    assert hash(Stain(gain=[1, 2])) == hash(Stain(gain=(1.0, 2.0)))  # type: ignore[arg-type]


def test_random_laboratories_are_reproducible_different_and_plausible(tissue: np.ndarray) -> None:
    assert random_stain(np.random.default_rng(3)) == random_stain(np.random.default_rng(3))
    rng = np.random.default_rng(4)
    stains = [random_stain(rng) for _ in range(60)]
    means = np.array([mean_tissue_rgb(apply(tissue[::3], stain)) for stain in stains])
    distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(means, 2)]
    assert np.median(distances) > 20
    for stain, (red, green, blue) in zip(stains, means, strict=True):
        assert np.exp(np.log(stain.white).mean()) > 219, "an empty slide must not count as tissue"
        assert min(red, blue) > green, "tissue in haematoxylin and eosin is never green"


def test_mean_tissue_colour_leaves_the_empty_slide_out() -> None:
    patch = np.full((1, 2, 2, 3), 240, dtype=np.uint8)  # density -ln(241/256) = 0.06: empty
    patch[0, 0] = (200, 100, 150), (100, 50, 100)
    assert mean_tissue_rgb(patch).tolist() == [150, 75, 125]
    assert np.isnan(mean_tissue_rgb(np.full((1, 2, 2, 3), 255, np.uint8))).all()


# the shipped sites


@pytest.mark.parametrize("source", ["tissue", "real"])
def test_any_two_shipped_sites_differ_by_fifteen_grey_levels(source: str, request: pytest.FixtureRequest) -> None:
    patches = request.getfixturevalue(source)
    means = {name: mean_tissue_rgb(apply(patches, profile(site["stain"]))) for name, site in SITES.items()}
    for (one, a), (other, b) in itertools.combinations(means.items(), 2):
        assert np.linalg.norm(a - b) >= 15, f"{one} and {other} look alike"


@pytest.mark.parametrize("stem", SITES)
def test_a_shipped_site_file_has_exactly_the_documented_keys(stem: str) -> None:
    site = SITES[stem]
    pace = ["link", "density"] if site["role"] == "train" else []
    assert list(site) == ["name", "description", "role", "patches", "class_mix", "stain", *pace]
    assert site["name"].replace("-", "_") == stem
    assert sum(site["class_mix"].values()) == pytest.approx(1)
    assert set(site["class_mix"]) <= set(TISSUE_CLASSES)
    assert min(site["class_mix"].values()) > 0
    assert (ROOT / "site_configs" / f"{stem}.yaml").read_text().startswith("# ")


def test_the_shipped_sites_are_enough_distinct_and_fit_into_the_small_lc25000() -> None:
    roles = [site["role"] for site in SITES.values()]
    assert roles.count("train") >= 6
    assert roles.count("held_out") >= 3
    assert len({site["stain"] for site in SITES.values()}) == len(SITES)
    assert any(len(site["class_mix"]) < len(TISSUE_CLASSES) for site in SITES.values())
    for label in TISSUE_CLASSES:
        demand = sum(site["patches"] * site["class_mix"].get(label, 0) for site in SITES.values())
        assert demand <= 600, f"{label}: the smallest class there has 670 patches"
        assert any(label in site["class_mix"] for site in SITES.values() if site["role"] == "train")


def test_importing_stain_and_tissue_needs_numpy_only() -> None:
    code = (
        "import sys, medfl.data.stain, medfl.data.synthetic.tissue;"
        "print(sorted({'torch', 'cv2', 'PIL', 'yaml', 'pydantic', 'albumentations'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"
