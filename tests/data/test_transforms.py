"""Transforms named in pipeline and site files."""

from pathlib import Path

import numpy as np
import pytest
import torch

from medfl.data import transforms as module
from medfl.data.stain import Stain, apply
from medfl.data.synthetic.tissue import draw_copies
from medfl.data.transform_names import ALBUMENTATIONS, MONAI
from medfl.data.transforms import Rendering, albumentations_jitter, packages, serving, serving_planes, try_jitter
from medfl.errors import MedflError
from tests.datafiles import (
    pixels,
)


def test_albumentations_stain_and_monai_transforms_apply(tmp_path: Path) -> None:
    patch = apply(np.full((1, 32, 32, 3), 120, np.uint8), Stain(), 1.0)[0]
    patch = np.clip(patch.astype(int) + pixels(0, 32) // 3, 0, 255).astype(np.uint8)
    for spec in (
        {"HEStain": {"method": "preset", "preset": "standard", "intensity_scale_range": [0.5, 0.5]}},
        {"NormalizeHEStainsd": {}},
        {"AdjustContrastd": {"gamma": 2.0}},
        "VerticalFlip",
    ):
        done = Rendering([spec], "site here")(patch, 3)
        assert done.shape == patch.shape
        assert done.dtype == np.uint8
        assert not np.array_equal(done, patch)
    assert np.array_equal(Rendering(["VerticalFlip"], "x")(patch, 0), patch[::-1])  # p is 1 unless stated
    assert np.array_equal(Rendering([{"Flipd": {"spatial_axis": 1}}], "x")(patch, 0), patch[:, ::-1])  # axes y, x


def test_every_name_of_the_list_is_a_transform() -> None:
    import albumentations
    import monai.apps.pathology.transforms as pathology
    import monai.transforms

    assert not [name for name in ALBUMENTATIONS if not hasattr(albumentations, name)]
    assert not [name for name in MONAI if not hasattr(monai.transforms, name) and not hasattr(pathology, name)]


def test_jitter_repeats_with_its_seed() -> None:
    jitter = albumentations_jitter([{"RandomBrightnessContrast": {"p": 1.0}}])
    patches = np.stack([pixels(n) for n in range(4)])
    first = jitter(patches, 5)
    assert first.shape == patches.shape
    assert first.dtype == np.uint8
    assert np.array_equal(jitter(patches, 5), first)
    assert not np.array_equal(jitter(patches, 6), first)
    with pytest.raises(
        MedflError, match=r'`training.augment.jitter`: albumentations has no transform GausNoise.*"GaussNoise"'
    ):
        albumentations_jitter(["GausNoise"])


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"RandomCrop": {"height": 16, "width": 16, "p": 0.01}}, "uint8 [16, 16, 3] from a patch of uint8 [32, 32, 3]"),
        ({"RandomCrop": {"height": 224, "width": 224}}, "RandomCrop failed on a patch of 32 px"),
    ],
)
def test_a_jitter_that_no_patch_survives_is_refused_before_training(spec, said):
    with pytest.raises(MedflError) as caught:
        try_jitter(["HorizontalFlip", spec], 32)
    assert said in str(caught.value)
    try_jitter(["ColorJitter", {"GaussNoise": {"p": 0.1}}], 32)


TISSUE = draw_copies("lung_aca", 1, 0, 48, 6)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("ScaleIntensityd", "ScaleIntensityd leaves 6 of 6 patches nearly constant, so the model would see nothing"),
        ("NormalizeIntensityd", "NormalizeIntensityd leaves 6 of 6 patches nearly constant"),
        ({"ScaleIntensityRanged": {"a_min": 0, "a_max": 255, "b_min": 0, "b_max": 1}}, "ScaleIntensityRanged leaves"),
        ({"ThresholdIntensityd": {"threshold": 999, "cval": 200}}, "ThresholdIntensityd leaves 6 of 6"),
        ({"ShiftIntensityd": {"offset": 250}}, "ShiftIntensityd"),
        ({"NormalizeIntensityd": {"subtrahend": 160, "divisor": 1}}, "values outside grey levels"),
    ],
)
def test_a_transform_that_leaves_nothing_to_be_seen_is_refused_by_name(spec, said):
    render = Rendering(["HorizontalFlip", spec, "VerticalFlip"], "site here")
    for seed, patch in enumerate(TISSUE):
        render(patch, seed)
    with pytest.raises(MedflError) as caught:
        render.check()
    assert str(caught.value).startswith("site here: `render`: ")
    assert said in str(caught.value)
    assert "state that range (`minv: 0, maxv: 255`), or remove it" in str(caught.value)


def test_what_keeps_grey_levels_and_what_was_flat_before_passes():
    for spec in (
        {"ScaleIntensityd": {"minv": 0, "maxv": 255}},
        {"RandGaussianNoised": {"prob": 1, "std": 9}},
        "GaussNoise",
        "Equalize",
        "ToGray",
        "NormalizeHEStainsd",
    ):
        render = Rendering([spec], "site here")
        for seed, patch in enumerate(TISSUE):
            render(patch, seed)
        render.check()
    blank = Rendering(["ScaleIntensityd"], "site here")
    blank(np.full((32, 32, 3), 240, np.uint8), 0)
    blank.check()
    one = Rendering([{"XYMasking": {"mask_x_length": 48, "num_masks_x": 1, "p": 0.3}}], "site here")
    for seed, patch in enumerate(TISSUE):
        one(patch, seed)
    one.check()


def test_what_is_no_grey_level_is_refused_at_once(monkeypatch):
    monkeypatch.setattr(module, "ALBUMENTATIONS", ALBUMENTATIONS | {"ToFloat"})
    with pytest.raises(MedflError, match="`render`: ToFloat gives float32 from a patch of uint8; it must take"):
        Rendering(["ToFloat"], "site here")(TISSUE[0], 0)
    with pytest.raises(MedflError, match="NormalizeIntensityd failed on a patch: it gives values that are no numbers"):
        Rendering([{"NormalizeIntensityd": {"subtrahend": 0, "divisor": float("nan")}}], "x")(TISSUE[0], 0)


def test_a_served_patch_has_one_look_and_a_fixed_transform_the_look_of_training():
    noisy = serving([{"GaussNoise": {"std_range": [0.1, 0.2]}}, "NormalizeHEStainsd"])
    assert np.array_equal(noisy(TISSUE), noisy(TISSUE[::-1].copy())[::-1])
    fixed = [{"AdjustContrastd": {"gamma": 2.0}}, "VerticalFlip"]
    trained = np.stack([Rendering(fixed, "x")(patch, seed) for seed, patch in enumerate(TISSUE)])
    assert np.array_equal(serving(fixed)(TISSUE), trained)
    planes = torch.from_numpy(TISSUE[0].copy()).permute(2, 0, 1).float()
    assert np.array_equal(serving_planes(fixed)(planes).permute(1, 2, 0).numpy(), trained[0])
    assert serving(fixed)(TISSUE[:0]).shape == (0, 48, 48, 3)


def test_packages_are_those_that_the_transforms_come_from():
    assert packages([]) == []
    assert packages(["Flipd"]) == ["monai"]
    assert packages(["VerticalFlip"]) == ["albumentations", "opencv-python-headless"]
    assert packages([{"Flipd": {}}, "VerticalFlip"]) == ["albumentations", "opencv-python-headless", "monai"]
