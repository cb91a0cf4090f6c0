"""What an image file may be, and what is refused because it does not say what its levels mean."""

import io
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medfl.data.image_file import PixelBudget, ReadFailure, read_image
from medfl.data.rgb import Unreadable
from tests.datafiles import pixels


def reason(path: Path) -> str:
    with pytest.raises(Unreadable) as error:
        read_image(path)
    assert not isinstance(error.value, ReadFailure)
    return str(error.value)


@pytest.mark.parametrize("suffix", ["tif", "png", "webp"])
def test_several_pages_or_frames_are_refused(tmp_path: Path, suffix: str) -> None:
    pages = [Image.fromarray(pixels(k)) for k in range(3)]
    pages[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=pages[1:])
    assert reason(tmp_path / f"a.{suffix}") == "3 pages or frames; save the one that is meant alone"
    pages[0].save(tmp_path / f"one.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    assert np.array_equal(read_image(tmp_path / f"one.{suffix}"), pixels(0))


@pytest.mark.parametrize("suffix", ["tif", "png"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_levels_of_fewer_bits_in_sixteen_are_not_guessed(tmp_path: Path, suffix: str, bits: int) -> None:
    levels = pixels(bits)[..., 0].astype(np.uint16) << (bits - 8)
    Image.fromarray(levels).save(tmp_path / f"a.{suffix}")
    if bits == 16:
        assert read_image(tmp_path / f"a.{suffix}").max() > 250
    else:
        assert "16-bit levels that end at" in reason(tmp_path / f"a.{suffix}")


def test_colours_of_fewer_bits_in_sixteen_are_not_guessed(tmp_path: Path) -> None:
    import cv2

    for bits in (8, 12):
        cv2.imwrite(str(tmp_path / f"{bits}.png"), pixels(1).astype(np.uint16) << (bits - 8))
        cv2.imwrite(str(tmp_path / f"{bits}.tif"), pixels(1).astype(np.uint16) << (bits - 8))
        assert "16-bit levels" in reason(tmp_path / f"{bits}.png")
        assert reason(tmp_path / f"{bits}.tif")  # Pillow reads no such TIFF, or only its upper bits


def test_numbers_without_an_agreed_scale_are_refused(tmp_path: Path) -> None:
    Image.fromarray(pixels(1)[..., 0].astype(np.int32)).save(tmp_path / "int.tif")
    assert reason(tmp_path / "int.tif") == "32-bit grey levels; save it with 8 or 16 bits"
    Image.fromarray(pixels(1)[..., 0].astype(np.float32)).save(tmp_path / "float.tif")
    assert "floating-point" in reason(tmp_path / "float.tif")
    Image.new("LAB", (16, 16)).save(tmp_path / "lab.tif")
    assert reason(tmp_path / "lab.tif") == "colours in LAB; save it as 8-bit RGB"
    deep = Image.fromarray(pixels(1)[..., 0].astype(np.uint16) * 257)
    deep.save(tmp_path / "white.tif", tiffinfo={262: 0})
    with Image.open(tmp_path / "white.tif") as image:
        assert image.tag_v2[262] == 0
    assert "whose zero is white" in reason(tmp_path / "white.tif")


def test_any_mode_is_read_as_pillow_shows_it_or_refused(tmp_path: Path) -> None:
    """What is read is what `convert` gives, over white; nothing comes out flat."""
    shown = Image.fromarray(pixels(3, 32))
    refusals = set()
    for mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "F", "I;16"):
        for suffix in ("png", "tif", "bmp", "webp", "jpg"):
            stream = io.BytesIO()
            try:
                image = shown.convert("L").convert(mode) if mode in ("I;16", "F", "I") else shown.convert(mode)
                image.save(stream, Image.registered_extensions()[f".{suffix}"])
            except (OSError, ValueError, KeyError):  # no such files
                continue
            path = tmp_path / f"{mode.replace(';', '')}.{suffix}"
            path.write_bytes(stream.getvalue())
            try:
                spread = read_image(path).std()
            except Unreadable as error:
                refusals.add(str(error))
            else:
                assert spread > 20, path
    assert refusals == {
        "32-bit grey levels; save it with 8 or 16 bits",
        "floating-point grey levels; save it with 8 or 16 bits",
        "colours in LAB; save it as 8-bit RGB",
        "16-bit levels that end at 241, as of a camera with fewer bits; save it with 8 bits, or scaled to 65535",
    }


def test_kinds_are_told_by_content_from_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    Image.fromarray(pixels(1)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    assert reason(tmp_path / "a.png") == "not an image"
    Image.fromarray(pixels(1)).save(tmp_path / "b.gif")
    (tmp_path / "b.gif").rename(tmp_path / "b.png")
    assert reason(tmp_path / "b.png") == "not an image"
    (tmp_path / "c.tif").write_bytes(b"II*\0" + bytes(60))
    assert "TIFF of a kind that is not read" in reason(tmp_path / "c.tif") or "damaged" in reason(tmp_path / "c.tif")
    os.mkfifo(tmp_path / "d.png")
    assert reason(tmp_path / "d.png") == "not a regular file"


def test_what_cannot_be_read_now_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ReadFailure, match="No such file"):
        read_image(tmp_path / "absent.png")


def test_pixels_in_flight_are_bounded() -> None:
    budget, most, now, lock = PixelBudget(100), 0, 0, threading.Lock()

    def work(sizes: list[int]) -> None:
        nonlocal most, now
        for size in sizes:
            with budget.patch():
                budget.take(size)
                with lock:
                    now += size
                    most = max(most, now)
                time.sleep(0.001)
                with lock:
                    now -= size

    threads = [threading.Thread(target=work, args=([40, 60, 250, 10],)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert most == 250  # alone
    budget.take(10**9)  # outside of a patch nothing is counted
