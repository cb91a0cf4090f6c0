"""Rendering: what the model sees is what lies in the files, once decoded, converted, resized and stained."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from medfl.data import decode as decoding
from medfl.data.duplicates.keypoints import describe_patches
from medfl.data.image_file import image_readers
from medfl.data.partition import make_partition, own_partition
from medfl.data.patch_store import PatchStore
from medfl.data.preview import preview
from medfl.data.render import read_patches, render
from medfl.data.stain import Stain, apply, profile
from medfl.data.transforms import albumentations_jitter, rendering
from medfl.errors import MedflError
from tests.datafiles import (
    CLASSES,
    needs_lc25000,
    pipeline,
    pixels,
    real_lc25000,
    site,
    write_folders,
    write_image,
    write_lc25000,
)


def decoded(path: Path, size: int = 16, field: int | None = None) -> np.ndarray:
    (result,) = decoding.decode(image_readers([path]), size, field)
    assert isinstance(result, decoding.DecodedPatch), str(result)
    return result.image


def reason(path: Path) -> str:
    (result,) = decoding.decode(image_readers([path]), 16)
    (searched,) = describe_patches(image_readers([path]), lambda *_: None)
    assert isinstance(result, decoding.Unreadable)
    assert str(searched) == str(result)  # the search for near-copies says the same
    return str(result)


def render_all(made, **options) -> dict[str, PatchStore]:
    by_name = {entry.name: entry for entry in made.all_sites}
    return {share.site: render(made, by_name[share.site], share, **options) for share in make_partition(made).sites}


def own(root: Path, **keys):
    """A pipeline whose only site is held out and brings the folder `root`."""
    return pipeline([], [site("here", root, "folder", **keys.pop("site", {}))], mode="own", **keys)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDFL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folders(tmp_path / "own", {"lung_aca": 6, "lung_n": 6})


# --- decoding


def test_a_patch_of_the_right_size_is_untouched_and_upright(tmp_path: Path) -> None:
    image = pixels(3)
    image[:4, :, 0], image[:, 12:, 1] = 255, 0  # a bright top, a dark right side
    assert np.array_equal(decoded(write_image(tmp_path / "a.png", image)), image)


@pytest.mark.parametrize(
    ("height", "width", "size"), [(56, 56, 16), (30, 30, 16), (224, 224, 64), (40, 24, 16), (9, 9, 16)]
)
def test_resize_is_torch_area_interpolation_rounded_half_up(tmp_path: Path, height: int, width: int, size: int) -> None:
    """As the served model does it, in a batch and in either memory layout."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    batch = torch.from_numpy(image).permute(2, 0, 1).float().expand(5, 3, height, width)
    got = decoded(write_image(tmp_path / "a.png", image), size)
    for layout in (torch.contiguous_format, torch.channels_last):
        small = torch.nn.functional.interpolate(batch.contiguous(memory_format=layout), (size, size), mode="area")
        want = (small + 0.5).floor().clamp(0, 255).to(torch.uint8)[2].permute(1, 2, 0).numpy()
        assert np.array_equal(got, want)


def test_area_means_the_mean_of_the_covered_pixels(tmp_path: Path) -> None:
    image = pixels(1, 32)
    means = image.reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))  # quarters: 0, .25, .5, .75
    assert np.array_equal(decoded(write_image(tmp_path / "a.png", image)), np.floor(means + 0.5))


def test_colour_formats_become_rgb(tmp_path: Path) -> None:
    image = pixels(5)
    grey = image[..., 0]
    three = np.repeat(grey[..., None], 3, axis=2)
    assert np.array_equal(decoded(write_image(tmp_path / "grey.png", grey)), three)
    wide = grey.astype(np.uint16) * 257
    assert np.array_equal(decoded(write_image(tmp_path / "wide.png", wide)), three)
    assert np.array_equal(decoded(write_image(tmp_path / "wide.tif", wide)), three)
    below = np.full((16, 16), 128, np.uint16)  # 128 / 257 is less than half a grey level
    assert decoded(write_image(tmp_path / "low.png", below)).max() == 0
    assert decoded(write_image(tmp_path / "one.png", below + 1)).min() == 1
    cv2.imwrite(str(tmp_path / "rgb16.png"), image[..., ::-1].astype(np.uint16) * 257)
    assert np.array_equal(decoded(tmp_path / "rgb16.png"), image)
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    ink.save(tmp_path / "ink.tif")
    assert decoded(tmp_path / "ink.tif")[3, 3].tolist() == [255, 0, 0]
    ink.save(tmp_path / "ink.jpg", quality=100)
    assert np.abs(decoded(tmp_path / "ink.jpg")[3, 3].astype(int) - [255, 0, 0]).max() < 6
    Image.fromarray(image).quantize(8).save(tmp_path / "palette.png")
    assert np.array_equal(
        decoded(tmp_path / "palette.png"), np.asarray(Image.open(tmp_path / "palette.png").convert("RGB"))
    )


def test_transparent_pixels_become_white_slide(tmp_path: Path) -> None:
    image = np.dstack([np.zeros((16, 16, 3), np.uint8), np.full((16, 16), 255, np.uint8)])
    image[:8, :, 3] = 0
    image[8:, 8:, 3] = 51  # a fifth of black over white
    shown = decoded(write_image(tmp_path / "a.png", image))
    assert shown[0, 0].tolist() == [255, 255, 255]
    assert shown[15, 0].tolist() == [0, 0, 0]
    assert shown[15, 15].tolist() == [204, 204, 204]


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    image = pixels(2)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter turn clockwise
    Image.fromarray(image).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(decoded(tmp_path / "a.png"), np.rot90(image, -1))


def test_unreadable_files_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medfl.data.rgb.MAX_PIXELS", 10_000)
    whole = write_image(tmp_path / "whole.jpg", pixels(1, 64)).read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("patient list")
    Image.new("1", (101, 100)).save(tmp_path / "giant.png")
    write_image(tmp_path / "float.tif", np.full((16, 16), 0.5, np.float32))
    assert "truncated" in reason(tmp_path / "half.jpg")
    assert reason(tmp_path / "empty.png") == "zero bytes"
    assert reason(tmp_path / "text.png") == "not an image"
    assert "101 x 100 pixels" in reason(tmp_path / "giant.png")
    assert "floating-point" in reason(tmp_path / "float.tif")
    assert "No such file" in reason(tmp_path / "absent.png")


def test_more_files_than_are_decoded_ahead_keep_their_order(tmp_path: Path) -> None:
    paths = [write_image(tmp_path / f"{n}.png", pixels(n)) for n in range(decoding.AHEAD * 2 + 5)]
    for number, patch in enumerate(decoding.decode(image_readers(paths), 16)):
        assert isinstance(patch, decoding.DecodedPatch)
        assert np.array_equal(patch.image, pixels(number))


def test_monai_metadata_tracking_is_left_as_it_was(tmp_path: Path) -> None:
    from monai.data import get_track_meta

    before = get_track_meta()
    decoded(write_image(tmp_path / "a.png", pixels(1)))
    assert get_track_meta() is before


# --- stores


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


def stores_in(made) -> list[Path]:
    return sorted((made.cache_dir / "stores").iterdir())


def test_a_store_is_keyed_by_content_and_settings(root: Path, tmp_path: Path) -> None:
    first = render_all(own(root))["here"]
    assert len(stores_in(own(root))) == 1
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    os.utime(copy / "lung_aca" / "lung_aca-p00" / "000.png", (1, 1))
    again = render_all(own(copy))["here"]
    assert len(stores_in(own(root))) == 1  # a copied folder finds its store
    assert again.digest == first.digest
    render_all(own(root, size=20))
    render_all(own(root, render=[{"HorizontalFlip": {}}]))
    assert len(stores_in(own(root))) == 3
    write_image(copy / "lung_aca" / "lung_aca-p00" / "000.png", pixels(77))
    changed = render_all(own(copy))["here"]
    assert len(stores_in(own(root))) == 4
    assert changed.digest != first.digest
    assert np.array_equal(changed.images[0], pixels(77))
    assert not list((own(root).cache_dir / "stores").glob(".*"))  # no half-written store is left


def test_large_files_are_told_apart_by_their_middle(tmp_path: Path) -> None:
    image = pixels(0, 300)  # 270 kB uncompressed
    path = write_image(tmp_path / "own" / "lung_n" / "ann" / "a.bmp", image)
    first = render_all(own(tmp_path / "own", size=300))["here"]
    image[150, :, :] ^= 255
    write_image(path, image)
    assert not np.array_equal(render_all(own(tmp_path / "own", size=300))["here"].images, first.images)


def test_a_damaged_store_is_rendered_again(root: Path) -> None:
    made = own(root)
    first = np.array(render_all(made)["here"].images)
    (folder,) = stores_in(made)
    for damage in (b"", b"\x93NUMPY broken", (folder / "images.npy").read_bytes()[:-1]):
        (folder / "images.npy").write_bytes(damage)
        assert np.array_equal(render_all(made)["here"].images, first)


def test_a_failed_rendering_leaves_nothing(root: Path) -> None:
    made = own(root, render=[{"CenterCrop": {"height": 8, "width": 8}}])
    with pytest.raises(MedflError, match=r"site here: `render`: CenterCrop gives \[8, 8, 3\].*keeps the size"):
        render_all(made)
    assert not list((made.cache_dir / "stores").iterdir())


def test_a_cache_that_cannot_be_written(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MedflError, match=r"cache .* cannot be written .*`data.cache`.*MEDFL_CACHE"):
        render_all(own(root, cache=tmp_path / "file"))


def test_a_store_found_again_imports_neither_monai_nor_a_decoder(root: Path) -> None:
    made = pipeline([site("here", root, "folder")], mode="own", render=["HorizontalFlip"])
    here = made.train_sites[0]
    digest = render(made, here, own_partition(made, here, "held_out")).digest
    script = (
        "import sys, json\nfrom medfl import config\nfrom medfl.data.partition import own_partition\n"
        "from medfl.data.render import render\nmade = config.Pipeline.model_validate(json.loads(sys.stdin.read()))\n"
        "here = made.train_sites[0]\nstore = render(made, here, own_partition(made, here, 'held_out'))\n"
        "heavy = ('monai', 'torch', 'PIL', 'albumentations', 'medfl.data.decode')\n"
        "print(store.digest, store.images.shape[0], [name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], input=made.model_dump_json(), text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=2) == [digest, "12", "[]\n"]


# --- bad images


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


# --- stain


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


# --- microns per pixel


def test_mpp_cuts_the_same_field_of_view(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The model sees 16 px of 0.5 um: 8 um, which are 32 px of the site's 0.25 um, the central ones of 40."""
    image = pixels(4, 40)
    write_image(tmp_path / "own" / "lung_n" / "ann" / "a.png", image)
    store = render_all(own(tmp_path / "own", mpp=0.5, site={"mpp": 0.25}))["here"]
    means = image[4:36, 4:36].reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
    assert np.array_equal(store.images[0], np.floor(means + 0.5))
    assert store.mpp == 0.5
    assert "site here: 0.25 microns per pixel, the model sees 0.5: the central 32 x 32 pixels" in caplog.text


def test_mpp_mirrors_what_a_smaller_image_lacks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = pixels(4, 12)
    write_image(tmp_path / "own" / "lung_n" / "ann" / "a.png", image)
    store = render_all(own(tmp_path / "own", mpp=0.5, site={"mpp": 0.5}))["here"]
    assert np.array_equal(store.images[0], np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="reflect"))
    assert not caplog.text  # equal figures need no warning
    with pytest.raises(MedflError, match=r"a.png \(12 x 12 pixels show less than half of the 40 the model sees\)"):
        render_all(own(tmp_path / "own", mpp=0.5, site={"mpp": 0.2}))


@pytest.mark.parametrize(
    ("data", "keys", "lacking"),
    [({"mpp": 0.5}, {}, "its `mpp`"), ({}, {"mpp": 0.5}, "`data.mpp`"), ({}, {}, "`data.mpp`")],
)
def test_unknown_mpp_warns_in_one_line(root: Path, caplog: pytest.LogCaptureFixture, data, keys, lacking: str) -> None:
    with caplog.at_level(logging.WARNING):
        store = render_all(own(root, site=keys, **data))["here"]
    assert len(caplog.records) == 1
    assert f"{lacking} is not stated" in caplog.text
    assert store.mpp is None


def test_stretched_images_warn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_image(tmp_path / "own" / "lung_n" / "ann" / "a.png", pixels(1)[:12])
    render_all(own(tmp_path / "own"))
    assert "1 of 1 images are not square" in caplog.text


# --- named transforms


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
    assert "LoadImaged reads or writes files" in refused("LoadImaged")
    assert "SelectItemsd failed on a patch" in refused({"SelectItemsd": {"keys": ["absent"]}})


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


# --- unlabelled patches, and the picture


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


def test_preview_shows_a_row_of_patches_per_site(tmp_path: Path) -> None:
    root = write_lc25000(tmp_path / "lc", tiles=6, copies=1, size=32)
    made = pipeline([site("a", patches=10), site("b", patches=10)], [site("c", patches=5)], root=root, size=32)
    stores = list(render_all(made).values())
    preview(stores, tmp_path / "sites.png", made, per_site=5)
    shown = np.asarray(Image.open(tmp_path / "sites.png"))
    assert shown.ndim == 3
    assert (shown[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()  # a white page
    for row in range(3):  # 25 pixels of margin, then 22 of label, 100 of patches and 8 of gap a site
        top = 25 + row * 130 + 22
        patches = shown[top : top + 100, -25 - 5 * 108 + 8 : -25]
        assert patches.std() > 50
        assert (patches[:, 100:108] == 255).all()  # the gap between two patches
    with pytest.raises(MedflError, match="cannot be written"):
        preview(stores, tmp_path / "absent" / "sites.png", made)


@needs_lc25000
def test_real_patches_are_decoded_as_pillow_reads_them() -> None:
    paths = sorted(real_lc25000().rglob("*.jpeg"))[::200]
    for path, patch in zip(paths, decoding.decode(image_readers(paths), 224), strict=True):
        assert isinstance(patch, decoding.DecodedPatch)
        with Image.open(path) as image:
            if image.size == (224, 224):
                assert np.array_equal(patch.image, np.asarray(image.convert("RGB")))


def test_the_record_beside_a_store_is_plain(root: Path) -> None:
    made = own(root)
    render_all(made)
    (folder,) = stores_in(made)
    assert sorted(path.name for path in folder.iterdir()) == ["images.npy", "store.json"]
    assert json.loads((folder / "store.json").read_text()) == {"version": 1, "shape": [12, 16, 16, 3], "bad": {}}
