"""Regions that a pathologist drew on a slide: QuPath's GeoJSON in its several forms, and ASAP's XML.

Coordinates are pixels of level 0. QuPath counts them from where the scanned part of a slide begins (OpenSlide's
`bounds`, above all in .mrxs), ASAP from the corner of the whole.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfl.config.regular_file import open_regular
from medfl.data.rgb import Unreadable
from medfl.data.slides.slide_library import slide_library
from medfl.data.slides.xml_text import parse_xml

SUFFIXES = (".geojson", ".json", ".xml", ".geojson.gz", ".json.gz", ".xml.gz")
MAX_BYTES = 256_000_000
UNCLASSIFIED = "Unclassified"
"""What a region without a class is called, as in QuPath; `labels` may map it, or drop it."""
DETECTIONS = ("detection", "cell", "tile", "tma_core", "root")
OLD_DETECTIONS = ("PathDetectionObject", "PathCellObject", "PathTileObject", "TMACoreObject", "PathRootObject")
AREAS = ("Polygon", "Rectangle", "Spline")
OTHER_ROOTS = {"Annotations": "Aperio ImageScope", "annotations": "Hamamatsu NDP.view"}


@dataclass(frozen=True)
class Region:
    """One class's regions on a slide: its word, and their union as a shapely polygon or multi-polygon."""

    word: str
    shape: Any


@dataclass(frozen=True)
class AnnotationFile:
    """What one file holds.

    Attributes:
        regions: one for each word, sorted by it.
        from_bounds: coordinates count from where the scanned part begins.
        left_out: what was drawn and is no region, and how many of each.
        mended: shapes that crossed themselves.
    """

    regions: tuple[Region, ...]
    from_bounds: bool
    left_out: dict[str, int]
    mended: int = 0


def read_annotations(path: Path) -> AnnotationFile:
    """The regions of one file. Raises Unreadable, which says what the file is; MedflError without shapely."""
    content = _content(path)
    begin = content[:100].lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if not begin:
        raise Unreadable("an empty file")
    if begin == b"<":
        return _collect(_asap(content), from_bounds=False)
    if begin in (b"{", b"["):
        return _collect(_geojson(content), from_bounds=True)
    raise Unreadable("neither GeoJSON nor ASAP's XML; export the annotations of QuPath as GeoJSON")


def moved(shape: Any, origin: tuple[int, int]) -> Any:
    """A shape in pixels of the whole slide, from one in pixels of its scanned part."""
    return slide_library("shapely.affinity").translate(shape, *origin) if any(origin) else shape


def _content(path: Path) -> bytes:
    try:
        with open_regular(path) as stream:
            packed = path.name.lower().endswith(".gz")
            content = (gzip.GzipFile(fileobj=stream) if packed else stream).read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise Unreadable(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > MAX_BYTES:
        raise Unreadable(f"more than {MAX_BYTES // 1_000_000} MB; export annotations without detections")
    return content


@dataclass(frozen=True)
class _Drawing:
    """One thing that was drawn: rings of points of each polygon, the outer one first; or what it is, if no region."""

    word: str
    polygons: Sequence[Sequence[Any]] = ()
    other: str = ""


def _collect(drawings: Iterator[_Drawing], from_bounds: bool) -> AnnotationFile:
    """Shapes by word. Raises Unreadable where nothing is a region."""
    shapely = slide_library("shapely")
    shapes: dict[str, list[Any]] = {}
    others: Counter[str] = Counter()
    mended = 0
    for drawing in drawings:
        if drawing.other:
            others[drawing.other] += 1
            continue
        for rings in drawing.polygons:
            outer, *holes = [_ring(ring) for ring in rings] or [[]]
            if len(outer) < 3:
                others["shapes of fewer than three points"] += 1
                continue
            shape = shapely.Polygon(outer, [hole for hole in holes if len(hole) > 2])
            if not shape.is_valid:
                shape, mended = _mended(shape), mended + 1
            if not shape.area:
                others["shapes without an area"] += 1
                continue
            shapes.setdefault(drawing.word, []).append(shape)
    if not shapes:
        contents = ", ".join(f"{kind} {count}" for kind, count in sorted(others.items())) or "nothing"
        raise Unreadable(f"an annotation file without a region: it holds {contents}; a tile's label needs an area")
    regions = [Region(word, shapely.unary_union(parts)) for word, parts in sorted(shapes.items())]
    return AnnotationFile(tuple(regions), from_bounds, dict(others), mended)


def _mended(shape: Any) -> Any:
    """The areas of a polygon that crosses itself."""
    shapely = slide_library("shapely")
    parts = shapely.get_parts(shapely.make_valid(shape))
    return shapely.unary_union([part for part in parts if part.geom_type in ("Polygon", "MultiPolygon")])


def _ring(points: Any) -> list[tuple[float, float]]:
    try:
        ring = [(float(point[0]), float(point[1])) for point in points]
    except (TypeError, ValueError, IndexError, KeyError):
        raise Unreadable("damaged: a point of a shape has no two numbers") from None
    if not all(math.isfinite(number) for point in ring for number in point):
        raise Unreadable("damaged: a point of a shape is not finite")
    return ring


def _geojson(content: bytes) -> Iterator[_Drawing]:
    """The objects of a FeatureCollection, of a list of features, or one feature, as QuPath's versions write them."""
    try:
        document = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"damaged: no JSON ({error})") from None
    features = document.get("features") if isinstance(document, dict) and "features" in document else document
    features = features if isinstance(features, list) else [features]
    if not all(isinstance(feature, dict) and feature.get("type") == "Feature" for feature in features):
        raise Unreadable("JSON that is no GeoJSON of features; export the annotations of QuPath as GeoJSON")
    for feature in features:
        facts = feature.get("properties")
        facts = facts if isinstance(facts, dict) else {}
        kind = str(facts.get("objectType") or facts.get("object_type") or "annotation").lower()
        if kind in DETECTIONS or feature.get("id") in OLD_DETECTIONS:
            yield _Drawing("", other="detections" if kind != "root" else "root objects")
            continue
        yield from _drawings(_word(facts), feature.get("geometry"))


def _drawings(word: str, geometry: Any) -> Iterator[_Drawing]:
    """What a GeoJSON geometry holds."""
    if not isinstance(geometry, dict):
        yield _Drawing(word, other="objects without a geometry")
        return
    kind, points = geometry.get("type"), geometry.get("coordinates")
    if kind == "GeometryCollection" and isinstance(geometry.get("geometries"), list):
        for part in geometry["geometries"]:
            yield from _drawings(word, part)
    elif kind in ("Polygon", "MultiPolygon"):
        polygons = [points] if kind == "Polygon" else points
        if not isinstance(polygons, list) or not all(isinstance(rings, list) for rings in polygons):
            raise Unreadable("damaged: a polygon without points")
        yield _Drawing(word, polygons)
    else:
        yield _Drawing(word, other=str(kind))


def _word(facts: dict[str, Any]) -> str:
    """The class of an annotation: QuPath's classification, or, without one, the annotation's name."""
    classification = facts.get("classification")
    if isinstance(classification, dict):
        names = classification.get("names")
        classification = classification.get("name") or (": ".join(map(str, names)) if names else None)
    return str(classification or facts.get("name") or UNCLASSIFIED).strip() or UNCLASSIFIED


def _asap(content: bytes) -> Iterator[_Drawing]:
    """The annotations of an ASAP file; a group's name is the class."""
    root = parse_xml(content)
    if root.tag != "ASAP_Annotations":
        maker = OTHER_ROOTS.get(root.tag, f"an unknown program (<{root.tag}>)")
        raise Unreadable(f"XML of {maker}, which is not read; open the slide in QuPath and export GeoJSON")
    for entry in root.iter("Annotation"):
        group = (entry.get("PartOfGroup") or "").strip()
        word = group if group and group != "None" else UNCLASSIFIED
        kind = entry.get("Type") or "shapes of an unknown type"
        if kind not in AREAS:
            yield _Drawing(word, other=kind)
            continue
        try:
            points = [(float(at.attrib["X"]), float(at.attrib["Y"])) for at in entry.iter("Coordinate")]
        except (KeyError, ValueError):
            raise Unreadable("damaged: a coordinate without X and Y") from None
        yield _Drawing(word, [[points]])
