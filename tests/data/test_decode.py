"""Decoding: what the model sees is what lies in the files, once decoded, converted and resized."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from medfl.data import decode as decoding
from medfl.data.duplicates.keypoints import describe_patches
from medfl.data.image_file import image_readers
from tests.datafiles import (
    needs_lc25000,
    pixels,
    real_lc25000,
    write_image,
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


@pytest.mark.parametrize(("height", "width", "size"), [(301, 200, 16), (200, 301, 64), (40, 24, 16), (9, 9, 16)])
def test_a_large_image_is_resized_in_bands_to_the_same_bytes(
    tmp_path: Path, height: int, width: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_image(
        tmp_path / "a.png", np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )
    whole = decoded(path, size)
    monkeypatch.setattr(decoding, "PIXELS_AT_ONCE", 10)
    assert np.array_equal(decoded(path, size), whole)


@pytest.mark.parametrize(("height", "width", "field"), [(20, 33, 17), (10, 30, 20), (21, 16, 31), (40, 41, 16)])
def test_the_central_field_is_what_monai_cuts_and_mirrors(tmp_path: Path, height: int, width: int, field: int) -> None:
    from monai.transforms import Compose, Resized, ResizeWithPadOrCropd

    image = np.random.default_rng(2).integers(0, 256, (height, width, 3), dtype=np.uint8)
    cut = ResizeWithPadOrCropd(["image"], (field, field), mode="reflect")
    both = Compose([cut, Resized(["image"], (16, 16), mode="area")])
    wanted = torch.as_tensor(both({"image": torch.from_numpy(image).permute(2, 0, 1).float()})["image"])
    assert np.array_equal(decoded(write_image(tmp_path / "a.png", image), 16, field), decoding.to_bytes(wanted))


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


@needs_lc25000
def test_real_patches_are_decoded_as_pillow_reads_them() -> None:
    paths = sorted(real_lc25000().rglob("*.jpeg"))[::200]
    for path, patch in zip(paths, decoding.decode(image_readers(paths), 224), strict=True):
        assert isinstance(patch, decoding.DecodedPatch)
        with Image.open(path) as image:
            if image.size == (224, 224):
                assert np.array_equal(patch.image, np.asarray(image.convert("RGB")))
