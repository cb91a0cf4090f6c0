"""Patches in memory: what a site may be made of, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset

from medfl.data.pixels import to_patch
from medfl.data.rgb import Unreadable
from medfl.data.sources.program_patches import SitePatches
from medfl.errors import MedflError
from tests.program_parts import bright


class Items(Dataset):
    """Items that are drawn anew where they `drift`."""

    def __init__(self, parts: int = 2, drift: bool = False) -> None:
        self.parts, self.drift, self.asked = parts, drift, 0

    def __len__(self) -> int:
        return 4

    def __getitem__(self, row: int):
        self.asked += 1
        image = Image.fromarray(bright(row + (self.asked if self.drift else 0), 1)[0])
        return (image, row % 2, f"patient-{row // 2}")[: self.parts]


def test_a_data_set_is_read_item_by_item_and_not_kept():
    items = Items()
    patches = SitePatches.from_dataset(items, ["p", "p", "q", "q"])
    assert (len(patches), patches.labels, patches.groups) == (4, [0, 1, 0, 1], ["p", "p", "q", "q"])
    assert items.asked == 4
    np.testing.assert_array_equal(patches.read(2), bright(2, 1)[0])
    assert items.asked == 5
    assert SitePatches.from_dataset(Items(3)).groups == ["patient-0", "patient-0", "patient-1", "patient-1"]
    tensors = TensorDataset(torch.from_numpy(bright(0, 4)), torch.arange(4) % 2)
    assert SitePatches.from_dataset(tensors, "unknown").groups is None


def test_a_data_set_that_augments_is_noticed():
    patches = SitePatches.from_dataset(Items(drift=True), "unknown")
    with pytest.raises(Unreadable, match="take random transforms out"):
        patches.read(0)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: SitePatches(bright(0, 3), [0, 1], "unknown"), "`labels` has 2 values for 3 patches"),
        (lambda: SitePatches(bright(0, 3), [0, 1, 2], ["p"]), "`groups` has 1 values for 3"),
        (lambda: SitePatches(bright(0, 3), [0, 1, 2], "ignore"), "state `groups`, the patient or slide"),
        (lambda: SitePatches(bright(0, 3), [0, 1, 2], ["p", None, "q"]), "has no group"),
        (lambda: SitePatches(bright(0, 2), [0, 1.5], "unknown"), "neither the name of a class nor its index"),
        (lambda: SitePatches([], [], "unknown"), "holds no patch"),
        (lambda: SitePatches(["tile.png"], [0], "unknown"), "patch 0 is an array of shape"),
        (lambda: SitePatches.from_dataset(Items()), r"2 parts, not \(image, label, group\); state `groups`"),
        (lambda: SitePatches.from_dataset(Items(3), "unknown"), "items of two parts go with `groups`"),
    ],
)
def test_what_is_refused(make, sentence):
    with pytest.raises(MedflError, match=sentence):
        make()


def test_one_patch_of_every_kind_is_the_same_grey_levels():
    patch = bright(0, 1)[0]
    for image in (patch, patch.transpose(2, 0, 1), patch / 255, torch.from_numpy(patch), Image.fromarray(patch)):
        np.testing.assert_array_equal(to_patch(image), patch)
    grey = to_patch(np.full((4, 5), 7, np.uint8))
    assert grey.shape == (4, 5, 3)
    assert (grey == 7).all()


@pytest.mark.parametrize(
    "wrong", [np.ones((4, 4, 3)) * 2, np.full((4, 4, 3), np.nan), np.ones((4, 4, 3), np.int32), np.ones(3)]
)
def test_normalised_and_strange_arrays_are_no_patches(wrong):
    with pytest.raises(Unreadable):
        to_patch(wrong)
