"""Tissue is found by density: not glass, not holes, not what a pen wrote; dark pictures are refused."""

from pathlib import Path

import numpy as np
import pytest

from medfl.data.optics import EOSIN, HAEMATOXYLIN, to_grey
from medfl.data.rgb import Unreadable
from medfl.data.slides.slide_reader import Slide
from medfl.data.slides.tissue_mask import TissueMask, tissue_mask
from tests.paths import SHARED
from tests.slides import generated, pyramid, tissue

pytest.importorskip("openslide")
SVS = SHARED / "slides" / "CMU-1-Small-Region.svs"


def mask_of(folder: Path, pixels: np.ndarray, side: float = 64) -> TissueMask:
    return tissue_mask(Slide(pyramid(folder / "a.tif", pixels)), side, 1.0)


def test_an_island_has_the_area_that_was_drawn(tmp_path: Path) -> None:
    mask = mask_of(tmp_path, tissue(600, 800, (100, 150, 300, 200)))
    assert mask.scale == 8  # eight cells along a tile
    assert mask.tissue.sum() * mask.scale**2 == pytest.approx(300 * 200, rel=0.15)
    x, y = np.array([100, 168, 400, 0]), np.array([150, 200, 150, 0])
    assert mask.shares(mask.tissue, x, y, 64).round(1).tolist() == pytest.approx([1, 1, 0, 0], abs=0.15)


def test_gaps_below_a_tile_are_tissue_and_larger_ones_are_none(tmp_path: Path) -> None:
    pixels = tissue(600, 800, (50, 50, 600, 500))
    pixels[200:240, 200:240] = 255
    pixels[300:450, 300:450] = 255
    mask = mask_of(tmp_path, pixels)
    assert mask.tissue[27, 27]
    assert not mask.tissue[46, 46]


def test_dust_is_no_tissue(tmp_path: Path) -> None:
    assert not mask_of(tmp_path, tissue(400, 400, (100, 100, 16, 16))).tissue.any()


@pytest.mark.parametrize(
    "ink", [(1.7, 1.0, 0.3), (1.4, 0.6, 1.0), (0.1, 1.4, 1.3), (2.0, 2.0, 2.0)], ids=["blue", "green", "red", "black"]
)
def test_ink_is_no_tissue(tmp_path: Path, ink: tuple[float, float, float]) -> None:
    pixels = tissue(500, 800, (50, 50, 300, 400))
    pixels[60:460, 500:560] = to_grey(np.broadcast_to(np.array(ink, np.float32), (400, 60, 3)).copy())
    mask = mask_of(tmp_path, pixels)
    assert mask.marks[10:55, 64:68].all()
    assert not mask.tissue[:, 58:].any()
    assert not mask.marks[:, :45].any()
    assert mask.tissue[15:50, 10:40].all()


@pytest.mark.parametrize(
    "dye", [HAEMATOXYLIN, EOSIN, (0.27, 0.57, 0.78)], ids=["haematoxylin", "eosin", "diaminobenzidine"]
)
@pytest.mark.parametrize("amount", [0.3, 1.0, 2.0])
def test_no_dye_is_taken_for_ink(tmp_path: Path, dye: tuple[float, float, float], amount: float) -> None:
    pixels = tissue(400, 400)
    pixels[100:300, 100:300] = to_grey(np.broadcast_to(amount * np.array(dye, np.float32), (200, 200, 3)).copy())
    mask = mask_of(tmp_path, pixels)
    assert not mask.marks.any()
    assert mask.tissue[15:35, 15:35].all()


def test_a_generated_slide_has_tissue_a_hole_and_a_mark() -> None:
    marked = tissue_mask(Slide(generated() / "patient-01.tif"), 32, 2.0)
    assert 0.005 < marked.marks.mean() < 0.05
    assert 0.1 < marked.tissue.mean() < 0.4
    assert not tissue_mask(Slide(generated() / "patient-02.tif"), 36, 1.76).marks.any()


@pytest.mark.skipif(not SVS.is_file(), reason="no shared slides beside the repository")
def test_real_slides_have_tissue_and_no_marks_and_fluorescence_is_refused() -> None:
    shares = {}
    for name in ("CMU-1-Small-Region.svs", "OS-1-detail.ome.tif", "OS-2-ndpi.ome.tif", "OS-2-vsi.ome.tif"):
        slide = Slide(SHARED / "slides" / name)
        mask = tissue_mask(slide, 112 / slide.mpp, slide.mpp)
        shares[name] = round(float(mask.tissue.mean()), 1)
        assert not mask.marks.any(), name
    assert shares == {
        "CMU-1-Small-Region.svs": 0.4,
        "OS-1-detail.ome.tif": 1.0,
        "OS-2-ndpi.ome.tif": 0.9,
        "OS-2-vsi.ome.tif": 0.9,
    }
    with pytest.raises(Unreadable, match="a dark picture, as of fluorescence"):
        tissue_mask(Slide(SHARED / "slides" / "test3-DAPI-2-387.ndpi"), 500, 0.228)
