"""Rendering: what the model sees is what lies in the files, once decoded, converted, resized and stained."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medfl.data.partition import make_partition
from medfl.data.render import read_patches, render, warn_of_resolution
from medfl.data.stain import Stain, apply, profile
from medfl.errors import MedflError
from tests.data.rendering import own, render_all
from tests.datafiles import (
    CLASSES,
    pipeline,
    pixels,
    site,
    write_image,
    write_lc25000,
)


def test_a_store_holds_the_share_row_by_row(root: Path) -> None:
    made = pipeline([site("here", root, "folder")], mode="own")
    (share,) = make_partition(made).sites
    seen: list[int] = []
    store = render(made, made.train_sites[0], share, progress=seen.append)
    assert store.images.shape == (12, 16, 16, 3)
    assert store.images.dtype == np.uint8
    assert not store.images.flags.writeable
    assert isinstance(store.images, np.memmap)
    for row, path in enumerate(map(Path, share.locations)):
        assert np.array_equal(store.images[row], np.asarray(Image.open(path)))
        assert store.names[row] == path.relative_to(root).as_posix()
        assert store.group_names[store.groups[row]] == path.parent.name
        assert CLASSES[store.labels[row]] == path.parent.parent.name
    assert {name: rows.tolist() for name, rows in store.splits.items()} == {
        n: r.tolist() for n, r in share.splits.items()
    }
    assert sum(seen) == 12
    assert (store.mpp, store.skipped) == (None, 0)


SPOILT = ("lung_aca/lung_aca-p01/002.png", "lung_n/lung_n-p02/005.png")


@pytest.fixture
def spoilt(root: Path) -> Path:
    (root / SPOILT[0]).write_bytes(b"")
    path = root / SPOILT[1]
    path.write_bytes(path.read_bytes()[:200])
    return root


def test_bad_images_are_listed_and_refused(spoilt: Path) -> None:
    with pytest.raises(MedflError) as error:
        render_all(own(spoilt))
    message = str(error.value)
    assert message.startswith("site here: 2 of 12 images cannot be read: ")
    assert "002.png (zero bytes)" in message
    assert "005.png (damaged: " in message
    assert "`data.on_bad_image: skip`" in message


def test_bad_images_are_skipped_with_a_count(spoilt: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = own(spoilt, on_bad_image="skip")
    for _ in ("rendered", "found again"):
        caplog.clear()
        store = render_all(made)["here"]
        assert store.skipped == 2
        assert "2 of 12 images cannot be read" in caplog.text
        assert len(store.images) == len(store.labels) == len(store.groups) == len(store.names) == 10
        assert store.splits["test"].tolist() == list(range(10))
        for row, name in enumerate(store.names):
            assert np.array_equal(store.images[row], np.asarray(Image.open(spoilt / name)))
            assert CLASSES[store.labels[row]] == name.split("/")[0]
    with pytest.raises(MedflError, match="2 of 12 images"):
        render_all(own(spoilt))  # a store that lacks images does not satisfy `refuse`


def test_skipped_images_leave_the_splits_right(spoilt: Path) -> None:
    made = pipeline([site("here", spoilt, "folder")], mode="own", on_bad_image="skip")
    (share,) = make_partition(made).sites
    store = render(made, made.train_sites[0], share)
    for split, rows in store.splits.items():
        wanted = [share.names[position] for position in share.splits[split]]
        assert [store.names[row] for row in rows] == [name for name in wanted if name not in SPOILT]


def test_many_bad_images_are_counted_and_a_site_of_nothing_else_is_refused(root: Path) -> None:
    for path in root.rglob("*.png"):
        path.write_text("not a picture")
    with pytest.raises(MedflError, match=r"12 of 12 images cannot be read: .* and 2 more; replace them"):
        render_all(own(root, on_bad_image="skip"))


def test_dealt_patches_are_stained_once_and_own_patches_never(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_lc25000(tmp_path / "lc", tiles=6, copies=1)
    numbers = {"haematoxylin": [0.6, 0.7, 0.3], "eosin": [0.2, 0.9, 0.3], "gain": [1.3, 0.8], "gamma": 1.1}
    sites = [
        site("named", patches=10, stain="faded"),
        site("stated", patches=10, stain=numbers, stain_strength=0.25),
        site("plain", patches=10),
    ]
    made = pipeline(sites, root=root, stain_strength=0.5)
    stores = render_all(made)
    plain = {
        share.site: np.stack([np.asarray(Image.open(path)) for path in share.locations])
        for share in make_partition(made).sites
    }
    expected = {
        "named": apply(plain["named"], profile("faded"), 0.5),
        "stated": apply(plain["stated"], Stain((0.6, 0.7, 0.3), (0.2, 0.9, 0.3), (1.3, 0.8), 1.1), 0.25),
        "plain": plain["plain"],
    }
    for name, images in expected.items():
        assert np.array_equal(stores[name].images, images), name
    assert not np.array_equal(stores["named"].images, plain["named"])
    caplog.clear()
    mine = render_all(pipeline([], [site("own", root, "lc25000", stain="faded")], mode="own"))["own"]
    assert np.array_equal(mine.images[0], np.asarray(Image.open(root / "colon_image_sets" / mine.names[0])))
    assert "`stain` is not applied" in caplog.text


def test_mpp_cuts_the_same_field_of_view(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The model sees 16 px of 0.5 um: 8 um, which are 32 px of the site's 0.25 um, the central ones of 40."""
    image = pixels(4, 40)
    write_image(tmp_path / "own" / "lung_n" / "ann" / "a.png", image)
    made = own(tmp_path / "own", mpp=0.5, site={"mpp": 0.25})
    store = render_all(made)["here"]
    means = image[4:36, 4:36].reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
    assert np.array_equal(store.images[0], np.floor(means + 0.5))
    assert store.mpp == 0.5
    warn_of_resolution(made, made.all_sites)
    assert "site here: 0.25 microns per pixel, the model sees 0.5: the central 32 x 32 pixels" in caplog.text


def test_mpp_mirrors_what_a_smaller_image_lacks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = pixels(4, 12)
    write_image(tmp_path / "own" / "lung_n" / "ann" / "a.png", image)
    made = own(tmp_path / "own", mpp=0.5, site={"mpp": 0.5})
    store = render_all(made)["here"]
    warn_of_resolution(made, made.all_sites)
    assert np.array_equal(store.images[0], np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="reflect"))
    assert not caplog.text  # equal figures need no warning
    with pytest.raises(MedflError, match=r"a.png \(12 x 12 pixels show less than half of the 40 the model sees\)"):
        render_all(own(tmp_path / "own", mpp=0.5, site={"mpp": 0.2}))


@pytest.mark.parametrize(
    ("data", "keys", "lacking"),
    [({"mpp": 0.5}, {}, "`mpp` of here"), ({}, {"mpp": 0.5}, "`data.mpp`"), ({}, {}, "`data.mpp`")],
)
def test_unknown_mpp_warns_in_one_line(root: Path, caplog: pytest.LogCaptureFixture, data, keys, lacking: str) -> None:
    with caplog.at_level(logging.WARNING):
        made = own(root, site=keys, **data)
        store = render_all(made)["here"]
        warn_of_resolution(made, made.all_sites)
    assert len(caplog.records) == 1
    assert f"{lacking} is not stated" in caplog.text
    assert store.mpp is None


def test_many_sites_of_other_resolutions_are_one_warning(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    stated = {"fine": 0.25, "same": 0.5, "coarse": 1.0, "silent": None, "mute": None}
    made = pipeline([], [site(name, root, "folder", mpp=mpp) for name, mpp in stated.items()], mode="own", mpp=0.5)
    warn_of_resolution(made, made.all_sites)
    (record,) = caplog.records
    text = record.getMessage()
    assert all(part in text for part in ("site fine: 0.25", "site coarse: 1 ", "`mpp` of silent, mute is not stated"))
    assert "site same" not in text


def test_stretched_images_warn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_image(tmp_path / "own" / "lung_n" / "ann" / "a.png", pixels(1)[:12])
    render_all(own(tmp_path / "own"))
    assert "1 of 1 images are not square" in caplog.text


def test_rendering_transforms_are_named_seeded_and_in_order(root: Path) -> None:
    noise = {"RandGaussianNoised": {"keys": ["image"], "prob": 1.0, "std": 20.0}}
    made = own(root, render=[noise], site={"render": ["HorizontalFlip", {"GaussNoise": {"std_range": [0.1, 0.1]}}]})
    first = np.array(render_all(made)["here"].images)
    shutil.rmtree(made.cache_dir)
    assert np.array_equal(render_all(made)["here"].images, first)
    shutil.rmtree(made.cache_dir)
    assert not np.array_equal(render_all(made.model_copy(update={"seed": 1}))["here"].images, first)
    plain = np.stack([np.asarray(Image.open(path)) for path in make_partition(made).sites[0].locations])
    assert 10 < np.abs(first.astype(int) - plain[:, :, ::-1]).mean() < 60  # flipped, then noisy
    differences = first.astype(int) - plain[:, :, ::-1]
    assert not np.array_equal(differences[0], differences[1])  # every patch has noise of its own


def test_bad_transforms_are_named(root: Path) -> None:
    def refused(spec) -> str:
        with pytest.raises(MedflError) as error:
            render_all(own(root, render=[spec]))
        return str(error.value)

    assert "site here: there is no transform HEStan" in (message := refused("HEStan"))
    assert '"HEStain"' in message
    assert '"RandGaussianNoised"' in refused("RandGaussianNoise")  # MONAI's array transforms are not dictionary ones
    assert "HEStain does not take these arguments" in refused({"HEStain": {"metod": "preset"}})
    assert "Zoomd does not take these arguments" in refused({"Zoomd": {"zom": 2}})
    assert "GaussNoise does not take these arguments" in refused({"GaussNoise": {"std_range": [5, 9]}})
    assert "one name with its arguments" in refused({"HEStain": {}, "VerticalFlip": {}})
    assert "LoadImaged may not be named in a file" in refused("LoadImaged")
    assert "SelectItemsd may not be named in a file" in refused({"SelectItemsd": {"keys": ["absent"]}})


def test_unlabelled_patches_are_read(root: Path) -> None:
    names, patches = read_patches(root, 16)
    assert names == sorted(names)
    assert names[0] == "lung_aca/lung_aca-p00/000.png"
    assert np.array_equal(patches[-1], np.asarray(Image.open(root / names[-1])))
    (root / "lung_n" / "bad.png").touch()
    with pytest.raises(MedflError, match=r"1 of 13 images cannot be read: .*bad.png \(zero bytes\)"):
        read_patches(root, 16)
    (root / "nothing").mkdir()
    with pytest.raises(MedflError, match="holds no image"):
        read_patches(root / "nothing", 16)
    with pytest.raises(MedflError, match="there is no folder"):
        read_patches(root / "absent", 16)


def test_a_transform_that_blackens_a_sites_patches_is_refused_and_nothing_is_kept(root: Path, tmp_path: Path) -> None:
    made = own(root, render=["ScaleIntensityd"], cache=str(tmp_path / "cache"))
    with pytest.raises(MedflError, match=r"site here: `render`: ScaleIntensityd leaves 12 of 12 patches"):
        render_all(made)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    theirs = own(root, site={"render": ["NormalizeIntensityd"]})  # a site's own list is looked at too
    with pytest.raises(MedflError, match="NormalizeIntensityd"):
        render_all(theirs)
