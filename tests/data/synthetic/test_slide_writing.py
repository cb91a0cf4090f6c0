"""Generated slides: what is drawn is what a seed says, and OpenSlide opens it with its resolution."""

import csv
from pathlib import Path

import numpy as np
import pytest

from medfl.config import DrawnSlides
from medfl.data.slides.annotation_file import read_annotations
from medfl.data.slides.slide_reader import Slide
from medfl.data.synthetic.slide_drawing import draw_slide
from medfl.data.synthetic.slide_writing import write_slides
from medfl.errors import MedflError
from tests.slides import CLASSES, SETTINGS, generated

openslide = pytest.importorskip("openslide")
shapely = pytest.importorskip("shapely")


def test_openslide_opens_pyramids_of_two_scanners() -> None:
    resolutions = set()
    for number in (1, 2):
        slide = openslide.OpenSlide(str(generated() / f"patient-{number:02d}.tif"))
        resolutions.add(round(float(slide.properties["openslide.mpp-x"]), 3))
    assert resolutions == {2.0, 1.76}


def test_one_slide_a_patient_with_its_label_and_annotations() -> None:
    with (generated() / "slides.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == CLASSES * 7
    assert len({row["patient"] for row in rows}) == SETTINGS["patients"]
    words = [
        [region.word for region in read_annotations(generated() / f"{row['patient']}.geojson").regions] for row in rows
    ]
    assert words == [["colon_n"], ["colon_aca", "colon_n"]] * 7


def test_an_annotation_outlines_the_tissue_and_its_hole() -> None:
    slide = Slide(generated() / "patient-02.tif")
    picture, scale = slide.overview(1.0)
    dark = picture.min(axis=-1) < 200
    regions = read_annotations(generated() / "patient-02.geojson").regions
    drawn = shapely.union_all([region.shape for region in regions])
    assert sum(len(part.interiors) for part in shapely.get_parts(drawn)) == 1
    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]]
    inside = shapely.contains_xy(drawn, columns * scale, rows * scale)
    near = shapely.contains_xy(drawn.buffer(4), columns * scale, rows * scale)  # the edge is soft
    assert not (dark & ~near).any()
    assert (dark & inside).sum() > 0.5 * inside.sum()


def test_a_slide_depends_on_its_own_index_only() -> None:
    first, again, other = (draw_slide("colon_n", CLASSES, 0, index, 240, 2.0) for index in (3, 3, 4))
    assert np.array_equal(first.pixels, again.pixels)
    assert not np.array_equal(first.pixels, other.pixels)
    assert first.pixels.shape == (84, 120, 3)


def test_they_are_drawn_once_and_other_classes_are_refused(tmp_path: Path) -> None:
    settings = DrawnSlides(patients=2, width=200, mpp=4)
    folder = write_slides(tmp_path, CLASSES, settings)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert write_slides(tmp_path, CLASSES, settings) == folder
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert write_slides(tmp_path, CLASSES, DrawnSlides(patients=2, width=200, mpp=4, seed=1)) != folder
    with pytest.raises(MedflError, match=r"no class \"colon\".*Did you mean"):
        write_slides(tmp_path, ["colon", "colon_n"], settings)
    (tmp_path / "file").write_text("")
    with pytest.raises(MedflError, match=r"cannot be written"):
        write_slides(tmp_path / "file", CLASSES, settings)
