"""Tiles lie on a regular grid, and regions cover them as shapely says."""

import numpy as np
import pytest

from medfl import config
from medfl.data.slides.annotation_file import Region
from medfl.data.slides.tile_grid import TileScale, covers, grid, overlaps, tile_scale

shapely = pytest.importorskip("shapely")


def test_tiles_stay_on_the_slide_and_share_what_was_asked_for() -> None:
    x, y = grid(100, 60, 32, 0)
    assert list(zip(x, y, strict=True)) == [(0, 0), (32, 0), (64, 0)]
    x, y = grid(100, 64, 32, 16)
    assert sorted(set(x.tolist())) == [0, 16, 32, 48, 64]
    assert sorted(set(y.tolist())) == [0, 16, 32]
    x, _ = grid(1000, 40, 32.4, 0)  # corners are rounded one by one, so that no error adds up
    assert x.tolist() == [round(k * 32.4) for k in range(30)]
    assert not len(grid(31, 100, 32, 0)[0])


def test_the_same_field_at_two_resolutions_has_the_same_tiles() -> None:
    scale = TileScale(64, 0.5, 0, 0.5)
    fine, coarse = (grid(side, side, scale.side(mpp), 0) for side, mpp in ((1024, 0.25), (512, 0.5)))
    assert (fine[0] == 2 * coarse[0]).all()
    assert (fine[1] == 2 * coarse[1]).all()


def test_covers_are_the_shares_of_intersections() -> None:
    ring = shapely.Polygon([(10, 10), (200, 30), (180, 210), (20, 190)], [[(80, 80), (120, 80), (120, 120), (80, 120)]])
    regions = [
        Region("a", ring),
        Region("b", shapely.MultiPolygon([shapely.box(0, 0, 40, 40), shapely.box(210, 0, 250, 99)])),
    ]
    x, y = grid(256, 256, 32, 0)
    shares = covers(regions, x, y, 32)
    for row in range(len(x)):
        tile = shapely.box(x[row], y[row], x[row] + 32, y[row] + 32)
        for column, region in enumerate(regions):
            assert shares[row, column] == pytest.approx(tile.intersection(region.shape).area / 1024, abs=1e-4)
    assert (shares[:, 0] == 1).sum() >= 12  # inside
    assert shares.shape == (64, 2)
    assert covers([], x, y, 32).shape == (64, 0)
    assert covers(regions, x[:0], y[:0], 32).shape == (0, 2)


def test_overlaps_are_of_the_smaller_region() -> None:
    one, other, far = (
        Region(word, shapely.box(x, 0, x + side, 10)) for word, x, side in (("a", 0, 40), ("b", 30, 20), ("c", 90, 9))
    )
    assert overlaps([one, other, far]) == [("a", "b", 0.5)]


def test_what_a_pipeline_says_of_its_tiles() -> None:
    plain = config.Data(source="slides", size=64, mpp=0.5)
    assert tile_scale(plain) == TileScale(64, 0.5, 0, 0.5)
    finer = config.Data(
        source="slides", size=64, mpp=0.5, tile={"size": 128, "mpp": 0.25, "overlap": 8, "min_tissue": 0.1}
    )
    assert tile_scale(finer) == TileScale(128, 0.25, 8, 0.1)
    assert tile_scale(config.Data(source="slides")) is None
    assert np.isclose(TileScale(64, 0.5, 0, 0.5).side(0.25), 128)
