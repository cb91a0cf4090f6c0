"""Tiles with scores, as QuPath opens them and as a picture."""

import json

import numpy as np
import pytest
from PIL import Image

from medfl.data.rgb import Unreadable
from medfl.data.slides.annotation_file import read_annotations
from medfl.data.slides.slide_folder import SlideFiles
from medfl.data.slides.slide_reader import Slide
from medfl.data.slides.tile_scores import heat_map, rgb, write_geojson, write_picture
from medfl.data.slides.tissue_tiles import TissueTiles
from medfl.metrics.palette import LIGHT
from tests.slides import pyramid, tissue

pytest.importorskip("openslide")
TILES = TissueTiles(SlideFiles("s.tif", ("s.tif",)), np.array([10, 74]), np.array([20, 20]), 64.0, 0.5)


def test_qupath_reads_each_tile_with_its_likeliest_class_and_its_scores(tmp_path):
    scores = {"p_n": np.array([0.9, 0.25]), "p_t": np.array([0.1, 0.75]), "attention": np.array([0.2, 0.8])}
    write_geojson(tmp_path / "s.geojson", TILES, (10, 5), ["n", "t"], scores)
    first, second = json.loads((tmp_path / "s.geojson").read_text())["features"]
    assert first["geometry"]["coordinates"] == [[[0, 15], [64, 15], [64, 79], [0, 79], [0, 15]]]
    assert (first["properties"]["objectType"], first["properties"]["classification"]["name"]) == ("tile", "n")
    assert second["properties"]["measurements"] == {"p_n": 0.25, "p_t": 0.75, "attention": 0.8}
    with pytest.raises(Unreadable, match="detections 2"):  # which are never taken for annotations
        read_annotations(tmp_path / "s.geojson")


def test_the_tile_with_the_largest_score_has_the_fullest_colour(tmp_path):
    slide = Slide(pyramid(tmp_path / "s.tif", tissue(128, 256, (0, 0, 256, 128))))
    write_picture(tmp_path / "s.png", heat_map(slide, TILES, np.array([0.0, 0.02]), None))
    picture = np.asarray(Image.open(tmp_path / "s.png").convert("RGB")).astype(int)
    scale = 256 / picture.shape[1]
    cold, hot = (picture[int(50 / scale), int(x / scale)] for x in (40, 100))
    assert np.ptp(cold) <= 16
    assert np.abs(hot - np.array(rgb(LIGHT["before"]))).max() < 60
