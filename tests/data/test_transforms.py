"""Transforms named in pipeline and site files."""

from pathlib import Path

import numpy as np
import pytest

from medfl.data.stain import Stain, apply
from medfl.data.transform_names import ALBUMENTATIONS, MONAI
from medfl.data.transforms import albumentations_jitter, rendering, try_jitter
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
        done = rendering([spec], "site here")(patch, 3)
        assert done.shape == patch.shape
        assert done.dtype == np.uint8
        assert not np.array_equal(done, patch)
    assert np.array_equal(rendering(["VerticalFlip"], "x")(patch, 0), patch[::-1])  # p is 1 unless stated
    assert np.array_equal(rendering([{"Flipd": {"spatial_axis": 1}}], "x")(patch, 0), patch[:, ::-1])  # axes y, x


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
