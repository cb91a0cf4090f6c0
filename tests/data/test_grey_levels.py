"""A site whose files decode to something that was not meant is a warning."""

from pathlib import Path

import numpy as np
import pytest

from medfl.data.grey_levels import GreyLevels, file_warnings, grey_levels, grey_warnings, store_warnings
from medfl.data.partition import make_partition
from tests.data.rendering import render_all
from tests.datafiles import pipeline, pixels, site, write_folders, write_image


def levels(mean: float, flat: float = 0.0) -> GreyLevels:
    return GreyLevels(mean, flat, 24)


def test_only_what_is_far_from_all_others_is_told() -> None:
    assert not grey_warnings({"a": levels(100), "b": levels(150), "c": levels(200)})
    (text,) = grey_warnings({"a": levels(140), "b": levels(150), "c": levels(20)})
    assert text.startswith("site c: the mean grey level is 20, and 140 at a, the nearest other site")
    (text,) = grey_warnings({"a": levels(255, flat=0.6)})
    assert text.startswith("site a: 60% of 24 patches looked at are nearly constant (mean grey level 255)")
    assert not grey_warnings({})
    assert grey_levels([]) is None


def test_flat_patches_are_seen_and_pale_tissue_is_not() -> None:
    pale = [np.clip(pixels(k) / 20 + 230, 0, 255).astype(np.uint8) for k in range(5)]
    assert grey_levels(pale) == GreyLevels(pytest.approx(236, abs=3), 0.0, 5)
    assert grey_levels([np.full((16, 16, 3), [255, 0, 255], np.uint8)]) == GreyLevels(pytest.approx(170), 1.0, 1)


def test_files_and_stores_are_told_alike(tmp_path: Path) -> None:
    roots = {name: write_folders(tmp_path / name, {"lung_aca": 4, "lung_n": 4}, seed=k) for k, name in enumerate("ab")}
    for path in roots["b"].rglob("*.png"):
        write_image(path, np.full((16, 16, 3), 255, np.uint8))
    broken = next(iter(roots["a"].rglob("*.png")))
    made = pipeline([], [site(name, root, "folder") for name, root in roots.items()], mode="own", on_bad_image="skip")
    (text,) = store_warnings(render_all(made))
    assert text.startswith("site b: 100% of 8 patches looked at are nearly constant")
    broken.write_bytes(b"")
    bad, again = file_warnings(make_partition(made))
    assert bad == f"site a: 1 of 8 images looked at cannot be read, the first is {broken} (zero bytes)"
    assert again == text
