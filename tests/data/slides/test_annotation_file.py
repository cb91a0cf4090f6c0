"""Annotations of QuPath and ASAP in the forms that are met; anything else says what it is."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from medfl.data.rgb import Unreadable
from medfl.data.slides.annotation_file import AnnotationFile, moved, read_annotations
from tests.paths import SHARED
from tests.slides import box, feature

shapely = pytest.importorskip("shapely")
FOLDER = SHARED / "annotations"
shared = pytest.mark.skipif(not FOLDER.is_dir(), reason="no shared annotations beside the repository")


EMPTY = {"type": "Feature", "properties": {}}


def read(folder: Path, content: Any, name: str = "a.geojson") -> AnnotationFile:
    file = folder / name
    text = content if isinstance(content, str) else json.dumps(content)
    file.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    return read_annotations(file)


def areas(content: AnnotationFile) -> dict[str, float]:
    return {region.word: region.shape.area for region in content.regions}


def refused(folder: Path, content: Any, name: str = "a.geojson") -> str:
    with pytest.raises(Unreadable) as error:
        read(folder, content, name)
    return str(error.value)


# The areas are those of the outer rings less the holes, by the shoelace formula over the files' own points.
@shared
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*json")) if FOLDER.is_dir() else [], ids=lambda path: path.name)
def test_qupaths_files_have_the_areas_that_were_drawn(path: Path) -> None:
    document = json.loads(path.read_text())
    features = document.get("features", [document]) if isinstance(document, dict) else document
    expected: dict[str, float] = {}
    for entry in features:
        facts = entry["properties"]
        word = facts.get("classification", {}).get("name") or facts.get("name") or "Unclassified"
        sizes = []
        for ring in entry["geometry"]["coordinates"]:
            pairs = zip(ring, [*ring[1:], ring[0]], strict=True)
            sizes.append(abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairs)) / 2)
        expected[word] = expected.get(word, 0) + sizes[0] - sum(sizes[1:])
    assert areas(read_annotations(path)) == pytest.approx(expected, rel=0.01)
    assert read_annotations(path).from_bounds


@shared
def test_the_words_of_qupaths_and_asaps_files() -> None:
    words = {path.name: sorted(areas(read_annotations(path))) for path in FOLDER.iterdir() if "dot" not in path.name}
    assert words == {
        "dlup_qupath05.geojson": ["I", "UT"],
        "histoqc_holed.geojson": ["Unclassified"],
        "wsidicom_asap-polygon.xml": ["Unclassified"],
        "wsidicom_qupath-brush.json": ["brush"],
        "wsidicom_qupath-polygon-cell-classified.json": ["Cell", "Nucleus"],
        "wsidicom_qupath-polygon.json": ["polygon"],
    }
    with pytest.raises(Unreadable, match=r"without a region: it holds Dot 1; a tile's label needs an area"):
        read_annotations(FOLDER / "wsidicom_asap-dot.xml")
    asap = read_annotations(FOLDER / "wsidicom_asap-polygon.xml")
    assert not asap.from_bounds
    assert areas(asap)["Unclassified"] == pytest.approx(28617, rel=0.01)


@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        (lambda entries: {"type": "FeatureCollection", "features": entries}, "a.geojson"),
        (lambda entries: entries, "a.json"),
        (lambda entries: {"type": "FeatureCollection", "features": entries}, "a.geojson.gz"),
    ],
)
def test_holes_are_holes_and_a_class_is_one_region(tmp_path: Path, wrap: Any, name: str) -> None:
    entries = [
        feature("Tumor", box(0, 0, 100, 100), box(20, 20, 50, 50)),
        feature("Tumor", box(90, 0, 20, 100)),
        feature("Stroma", box(300, 0, 10, 10)),
    ]
    content = read(tmp_path, wrap(entries), name)
    assert areas(content) == {"Stroma": 100, "Tumor": 11_000 - 2500}
    tumour = content.regions[1].shape
    assert not tumour.contains(shapely.Point(40, 40))
    assert tumour.contains(shapely.Point(10, 10))


def test_one_feature_and_several_polygons_and_a_collection_of_geometries(tmp_path: Path) -> None:
    two = {"type": "MultiPolygon", "coordinates": [[box(0, 0, 10, 10)], [box(50, 0, 10, 10), box(52, 2, 4, 4)]]}
    assert areas(read(tmp_path, feature("A", box(0, 0, 1, 1)) | {"geometry": two})) == {"A": 184}
    parts = {"type": "GeometryCollection", "geometries": [two, {"type": "Point", "coordinates": [1, 2]}]}
    content = read(tmp_path, feature("A", box(0, 0, 1, 1)) | {"geometry": parts})
    assert areas(content) == {"A": 184}
    assert content.left_out == {"Point": 1}


def test_words_of_several_qupath_versions(tmp_path: Path) -> None:
    square = [box(0, 0, 10, 10)]
    words = [
        (feature("Tumor", *square), "Tumor"),
        (feature(None, *square, classification={"names": ["Tumor", "Positive"]}), "Tumor: Positive"),
        (feature(None, *square, classification="Tumor"), "Tumor"),
        (feature(None, *square, name="region 7"), "region 7"),
        (feature(None, *square, classification=None), "Unclassified"),
        ({"type": "Feature", "geometry": feature("", *square)["geometry"]}, "Unclassified"),
    ]
    for entry, word in words:
        assert areas(read(tmp_path, entry)) == {word: 100}


def test_detections_and_points_are_left_out_with_a_count(tmp_path: Path) -> None:
    cells = [
        feature("Cell", box(0, 0, 5, 5), objectType="cell"),
        feature("Cell", box(0, 0, 5, 5)) | {"id": "PathCellObject"},
    ]
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [3, 3]}, "properties": {}}
    thin = feature("A", [(0, 0), (5, 0), (9, 0)])
    content = read(tmp_path, [*cells, point, thin, feature("A", box(0, 0, 10, 10))])
    assert areas(content) == {"A": 100}
    assert content.left_out == {"detections": 2, "Point": 1, "shapes without an area": 1}


def test_a_shape_that_crosses_itself_is_mended(tmp_path: Path) -> None:
    content = read(tmp_path, feature("A", [(0, 0), (10, 10), (10, 0), (0, 10)]))
    assert areas(content) == {"A": pytest.approx(50)}
    assert content.mended == 1


def test_asap_groups_are_classes_and_entities_are_refused(tmp_path: Path) -> None:
    corners = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(box(5, 5, 10, 20)))
    entries = "".join(
        f'<Annotation Name="{kind}" Type="{kind}" PartOfGroup="Tumor"><Coordinates>{corners}</Coordinates></Annotation>'
        for kind in ("Polygon", "Dot")
    )
    text = f"<ASAP_Annotations><Annotations>{entries}</Annotations></ASAP_Annotations>"
    content = read(tmp_path, text, "a.xml")
    assert (areas(content), content.left_out) == ({"Tumor": 200}, {"Dot": 1})
    assert "document type" in refused(tmp_path, f"<!DOCTYPE x>{text}", "a.xml")
    assert "XML of Aperio ImageScope, which is not read" in refused(tmp_path, "<Annotations/>", "a.xml")
    assert "coordinate without X and Y" in refused(tmp_path, text.replace(' X="5"', ""), "a.xml")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "an empty file"),
        ("slide,x,y\n", "neither GeoJSON nor ASAP's XML"),
        ("<unclosed", "no XML"),
        ('{"type": "Feature', "damaged: no JSON"),
        ({"images": []}, "JSON that is no GeoJSON of features"),
        ({"type": "FeatureCollection", "features": []}, "it holds nothing"),
        (feature("A", [(0, 0), (1, float("nan")), (1, 1)]), "is not finite"),
        (EMPTY | {"geometry": {"type": "Polygon", "coordinates": [["a", "b"]]}}, "has no two numbers"),
        (EMPTY | {"geometry": {"type": "Polygon", "coordinates": 3}}, "a polygon without points"),
        (EMPTY | {"geometry": {"type": "Polygon", "coordinates": []}}, "fewer than three points"),
        (EMPTY | {"geometry": None}, "objects without a geometry 1"),
        ("[" * 100_000, "damaged: no JSON"),
    ],
)
def test_what_holds_no_region_says_what_it_is(tmp_path: Path, content: Any, sentence: str) -> None:
    assert sentence in refused(tmp_path, content)


def test_a_damaged_archive_and_a_large_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.geojson.gz").write_bytes(gzip.compress(b"{}" * 1000)[:-20])
    with pytest.raises(Unreadable, match="cannot be read"):
        read_annotations(tmp_path / "a.geojson.gz")
    monkeypatch.setattr("medfl.data.slides.annotation_file.MAX_BYTES", 10)
    assert "export annotations without detections" in refused(tmp_path, feature("A", box(0, 0, 1, 1)))


def test_shapes_from_the_scanned_part_are_moved() -> None:
    shape = shapely.box(0, 0, 1, 1)
    assert moved(shape, (10, 20)).bounds == (10, 20, 11, 21)
    assert moved(shape, (0, 0)) is shape
