"""Real slides become tiles at OpenSlide's own pixels, or say what they are."""

from pathlib import Path

import numpy as np
import pytest

from medfl.data.rgb import Unreadable
from medfl.data.slides.slide_reader import Slide
from medfl.data.slides.slide_tiling import SlideTask, tile_slide
from medfl.data.slides.tile_grid import TileScale
from tests.paths import SHARED

openslide = pytest.importorskip("openslide")
SLIDES = sorted(path for path in SHARED.glob("slides/*") if path.suffix != ".md")
REFUSED = {"test3-DAPI-2-387.ndpi": "fluorescence"}
shared = pytest.mark.skipif(not SLIDES, reason="no shared slides beside the repository")
SCALE = TileScale(224, 0.5, 0, 0.5)


@shared
def test_tiles_lie_where_openslide_reads_the_same_pixels(tmp_path: Path) -> None:
    (file,) = (path for path in SLIDES if path.suffix == ".svs")
    tiling, slide, own = tile_slide(SlideTask(file, None, SCALE), tmp_path), Slide(file), openslide.OpenSlide(str(file))
    assert tiling.side == pytest.approx(224 * 0.5 / 0.499)
    assert len(tiling.x) > 20
    assert {round(x / tiling.side) for x in tiling.x} <= set(range(9))
    for x, y in list(zip(tiling.x, tiling.y, strict=True))[::9]:
        column, row = round(x / tiling.side), round(y / tiling.side)
        assert (abs(x - column * tiling.side), abs(y - row * tiling.side)) <= (0.5, 0.5)  # on the grid, to the pixel
        pixels = np.asarray(own.read_region((x, y), 0, (224, 224)).convert("RGB"))
        assert np.array_equal(slide.read(x, y, tiling.side, tiling.side, (224, 224)), pixels)
        assert pixels.std() > 5  # tissue, no glass


@shared
@pytest.mark.parametrize("file", SLIDES, ids=lambda path: path.name)
def test_every_shared_slide_has_tiles_or_a_sentence(file: Path, tmp_path: Path) -> None:
    task = SlideTask(file, None, SCALE)
    if file.name in REFUSED:
        with pytest.raises(Unreadable, match=REFUSED[file.name]):
            tile_slide(task, tmp_path)
        return
    tiling = tile_slide(task, tmp_path)
    assert tiling.x
    assert tile_slide(SlideTask(file.with_name("gone"), None, SCALE), tmp_path) == tiling  # noted, and not opened again
