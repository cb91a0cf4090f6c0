"""Slides are read by scale, at the pixels that OpenSlide gives; what is none says what it is."""

import io
import pickle
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medfl.data.rgb import Unreadable
from medfl.data.slides import slide_reader
from medfl.data.slides.slide_folder import list_slides
from medfl.data.slides.slide_reader import OpenSlides, Slide
from medfl.data.slides.slide_tiling import SlideTask, tile_slide
from medfl.data.slides.tile_grid import TileScale
from tests.dicom_slide import write_dicom
from tests.paths import SHARED
from tests.slides import SETTINGS, generated, pyramid, tissue

openslide = pytest.importorskip("openslide")
tifffile = pytest.importorskip("tifffile")
SVS = SHARED / "slides" / "CMU-1-Small-Region.svs"
shared = pytest.mark.skipif(not SVS.is_file(), reason="no shared slides beside the repository")


def region(path: Path, x: int, y: int, level: int, size: int) -> np.ndarray:
    """What OpenSlide itself reads."""
    return np.asarray(openslide.OpenSlide(str(path)).read_region((x, y), level, (size, size)).convert("RGB"))


@shared
def test_a_tile_at_a_scanners_own_scale_is_what_openslide_reads() -> None:
    slide = Slide(SVS)
    assert (slide.width, slide.height, slide.mpp) == (2220, 2967, pytest.approx(0.499))
    for x, y in ((0, 0), (701, 1203), (1996, 2743)):
        side = 224 * 0.5 / slide.mpp  # 224.4 pixels: half a pixel is not worth blurring all
        assert np.array_equal(slide.read(x, y, side, side, (224, 224)), region(SVS, x, y, 0, 224))


@shared
def test_a_coarser_tile_is_the_mean_over_areas() -> None:
    tile = Slide(SVS).read(700, 1200, 256, 256, (128, 128))
    full = region(SVS, 700, 1200, 0, 256).astype(float)
    assert np.abs(tile - full.reshape(128, 2, 128, 2, 3).mean(axis=(1, 3))).max() <= 0.5


def test_the_level_is_chosen_by_scale_and_its_pixels_are_openslides(tmp_path: Path) -> None:
    file = pyramid(tmp_path / "a.tif", tissue(1200, 1600, (100, 100, 1200, 900)), 0.25)
    slide = Slide(file)
    assert slide.mpp == pytest.approx(0.25)
    assert slide.downsamples == [1.0, 4.0]
    assert [slide.level_for(scale) for scale in (0.5, 1, 3.9, 4, 4.1, 64)] == [0, 0, 0, 1, 1, 1]
    assert slide.level_for(3.97) == 1  # levels are rounded to whole pixels
    assert np.array_equal(slide.read(400, 200, 256, 256, (64, 64)), region(file, 400, 200, 1, 64))
    assert np.array_equal(slide.read(404, 204, 64, 64, (64, 64)), region(file, 404, 204, 0, 64))


def test_a_generated_slide_gives_openslides_pixels_at_every_level() -> None:
    file = generated() / "patient-02.tif"  # of the second scanner, whose levels are no whole downsamples
    slide = Slide(file)
    assert slide.mpp == pytest.approx(0.88 * SETTINGS["mpp"], rel=1e-4)
    x, y = slide.width // 2 - 40, slide.height // 2 - 40
    for level, downsample in enumerate(slide.downsamples):
        size = round(80 / downsample)
        assert np.array_equal(slide.read(x, y, 80, 80, (size, size)), region(file, x, y, level, size))


def test_one_tissue_at_two_resolutions_shows_the_same_field(tmp_path: Path) -> None:
    fine = tissue(1024, 1024, (0, 0, 1024, 1024))
    coarse = fine.reshape(512, 2, 512, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)
    slides = [Slide(pyramid(tmp_path / f"{mpp}.tif", image, mpp)) for mpp, image in ((0.25, fine), (0.5, coarse))]
    for left, top in ((0, 0), (64, 160)):  # in microns
        tiles = []
        for slide in slides:
            side = 64 * 1.0 / slide.mpp  # 64 pixels at one micron
            tiles.append(slide.read(round(left / slide.mpp), round(top / slide.mpp), side, side, (64, 64)).astype(int))
        assert np.abs(tiles[0] - tiles[1]).max() <= 1
        assert tiles[0].std() > 10


def test_the_overview_is_read_in_blocks_without_seams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slide = Slide(pyramid(tmp_path / "a.tif", tissue(900, 700, (50, 50, 600, 800))))
    whole, scale = slide.overview(3.0)
    assert (whole.shape, scale) == ((300, 233, 3), 3.0)
    monkeypatch.setattr(slide_reader, "BLOCK", 90)
    parts, _ = slide.overview(3.0)
    assert np.abs(parts.astype(int) - whole).mean() < 1
    assert slide.overview(0.1)[1] == 1.0  # never finer than the slide


@shared
@pytest.mark.parametrize(
    ("name", "mpp", "side"), [("OS-1-detail", 0.2271, 1101), ("OS-2-ndpi", 0.2271, 2202), ("OS-2-vsi", 0.34605, 1445)]
)
def test_ome_tiff_that_openslide_refuses_is_read(name: str, mpp: float, side: int) -> None:
    file = SHARED / "slides" / f"{name}.ome.tif"
    with pytest.raises(openslide.OpenSlideUnsupportedFormatError):
        openslide.OpenSlide(str(file))
    slide = Slide(file)
    assert (slide.width, slide.height) == (side, side)
    assert slide.mpp == pytest.approx(mpp, abs=1e-4)
    across = slide.read(480, 500, 64, 64, (64, 64))  # over the border between two tiles of the file
    corners = [slide.read(480 + x, 500 + y, 32, 32, (32, 32)) for y in (0, 32) for x in (0, 32)]
    assert np.array_equal(across, np.vstack([np.hstack(corners[:2]), np.hstack(corners[2:])]))
    assert across.std() > 5


@shared
def test_the_fluorescence_slide_opens_and_is_read_at_every_scale() -> None:
    slide = Slide(SHARED / "slides" / "test3-DAPI-2-387.ndpi")
    assert slide.mpp == pytest.approx(0.2282, abs=1e-4)
    assert [slide.level_for(scale) for scale in (1, 2, 3, 4.4, 63.9)] == [0, 1, 1, 2, 6]


def test_a_resolution_for_print_is_none(tmp_path: Path) -> None:
    image = tissue(300, 300, (0, 0, 300, 300))
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(128, 128), resolution=(72, 72), resolutionunit="INCH")
    assert Slide(tmp_path / "a.tif").mpp is None
    assert Slide(tmp_path / "a.tif", mpp=0.25).mpp == 0.25
    own = pyramid(tmp_path / "b.tif", image, 0.5)
    assert Slide(own, mpp=0.25).mpp == pytest.approx(0.5)
    assert Slide(own, mpp=0.25, override=True).mpp == 0.25
    tifffile.imwrite(tmp_path / "c.tif", image, tile=(128, 128), resolution=(2e4, 1e4), resolutionunit="CENTIMETER")
    with pytest.raises(Unreadable, match=r"pixels are not square \(0\.5 x 1 microns\)"):
        Slide(tmp_path / "c.tif")


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "pink").save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("empty.svs", b"", "zero bytes"),
        ("photo.svs", jpeg(), "a JPEG by its content, no slide"),
        ("notes.ndpi", b"to whom it may concern", "no slide that OpenSlide or tifffile can open"),
        ("torn.tif", b"II*\0\x08\0\0\0\xff\xff", "no slide that OpenSlide or tifffile can open"),
    ],
)
def test_what_is_no_slide_says_what_it_is(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Unreadable, match=sentence):
        Slide(tmp_path / name)


def test_an_absent_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="No such file"):
        Slide(tmp_path / "none.svs")


@shared
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_a_truncated_slide_says_so(tmp_path: Path, share: float) -> None:
    content = SVS.read_bytes()
    (tmp_path / "a.svs").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(Unreadable, match=r"^damaged|no slide that"):
        Slide(tmp_path / "a.svs").overview(4.0)


def huge(path: Path, **layout: object) -> Path:
    """A TIFF of 30,000 x 30,000 white pixels, small on the disk."""
    side = layout.pop("side")
    part = np.full((side, 30_000 if "rowsperstrip" in layout else side, 3), 255, np.uint8)
    encoded = zlib.compress(part.tobytes(), 1)
    count = -(-30_000 // side)
    count = count if "rowsperstrip" in layout else count**2
    parts = (encoded for _ in range(count))
    tifffile.imwrite(
        path, parts, shape=(30_000, 30_000, 3), dtype="u1", photometric="rgb", compression="zlib", **layout
    )
    return path


def test_a_large_tiff_without_a_pyramid_is_refused_before_it_is_read(tmp_path: Path) -> None:
    tiled = Slide(huge(tmp_path / "tiled.tif", side=1008, tile=(1008, 1008)), mpp=0.25)
    with pytest.raises(Unreadable, match=r"without a pyramid: its coarsest level has 30,000 x 30,000 pixels; `vips"):
        tiled.overview(32.0)
    with pytest.raises(Unreadable, match=r"30,000 x 30,000 pixels without tiles and pyramid; `vips"):
        Slide(huge(tmp_path / "strips.tif", side=100, rowsperstrip=100))


def test_the_files_of_a_dicom_series_are_one_slide_and_two_series_are_told(tmp_path: Path) -> None:
    whole = tissue(256, 384, (0, 0, 200, 200))
    half = whole[::2, ::2]
    folder = write_dicom(tmp_path / "ward" / "case 1", [whole, half], mpp=0.5)
    (slide,) = list_slides(tmp_path / "ward", "site here")
    assert (slide.name, slide.files) == ("case 1", ("case 1/1-0.dcm", "case 1/1-1.dcm"))
    own = Slide(tmp_path / "ward" / slide.files[0])
    assert (own.width, own.height, own.downsamples, own.mpp) == (384, 256, [1.0, 2.0], pytest.approx(0.5))
    assert np.array_equal(own.read(40, 60, 128, 128, (128, 128)), whole[60:188, 40:168])
    assert np.array_equal(own.read(40, 60, 128, 128, (64, 64)), half[30:94, 20:84])  # from the second file
    task = SlideTask(tmp_path / "ward" / slide.files[0], None, TileScale(32, 1.0, 0, 0.5))
    assert len(tile_slide(task, tmp_path / "cache").x) == 9
    write_dicom(folder, [half], mpp=0.5, series=2)
    with pytest.raises(Unreadable, match=r"\.dcm files of 2 slides \(DICOM series\); give each slide a folder"):
        Slide(folder / "1-0.dcm")


def test_a_dicom_file_that_is_no_slide_says_so(tmp_path: Path) -> None:
    folder = write_dicom(tmp_path / "ct", [tissue(64, 64, (0, 0, 64, 64))], mpp=0.5)
    content = (folder / "1-0.dcm").read_bytes()
    (folder / "1-0.dcm").write_bytes(content.replace(b"1.1.77.1.6", b"1.1.2.1.99"))
    with pytest.raises(Unreadable, match="no slide that OpenSlide or tifffile can open"):
        Slide(folder / "1-0.dcm")
    (folder / "1-0.dcm").write_bytes(content[: len(content) // 2])
    with pytest.raises(Unreadable, match=r"^damaged"):
        Slide(folder / "1-0.dcm").overview(1.0)


def test_the_latest_few_slides_stay_open_and_travel_as_nothing(tmp_path: Path) -> None:
    files = [pyramid(tmp_path / f"{number}.tif", tissue(64, 64, (0, 0, 64, 64))) for number in range(6)]
    slides = OpenSlides()
    first = slides.get(files[0])
    assert slides.get(files[0]) is first
    for file in files[1:]:
        slides.get(file)
    assert len(slides._slides) == slide_reader.OPEN
    assert slides.get(files[0]) is not first
    assert not pickle.loads(pickle.dumps(slides))._slides
