"""Which files are slides, which annotation belongs to which, and how a slide is known again."""

from pathlib import Path

import pytest

from medfl.data.slides.slide_folder import SAMPLE, SlideFingerprints, list_slides, spread_content
from medfl.errors import MedflError


def files(root: Path, *names: str, content: bytes = b"x") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def test_slides_and_what_belongs_to_them(tmp_path: Path) -> None:
    files(tmp_path, "b.svs", "ward/a.ndpi", "m.mrxs", "m/Data0.dat", "m/Slidedat.ini", "case 1/1.dcm", "case 1/2.dcm")
    files(tmp_path, "notes.txt", ".hidden.svs", "@eaDir/b.svs")
    slides = {slide.name: slide.files for slide in list_slides(tmp_path, "site here")}
    assert slides == {
        "b.svs": ("b.svs",),
        "case 1": ("case 1/1.dcm", "case 1/2.dcm"),
        "m.mrxs": ("m.mrxs", "m/Data0.dat", "m/Slidedat.ini"),
        "ward/a.ndpi": ("ward/a.ndpi",),
    }


def test_annotations_beside_a_slide_or_in_a_folder_of_their_own(tmp_path: Path) -> None:
    files(
        tmp_path, "a.svs", "a.geojson", "ward/b.ome.tif", "annotations/deep/b.xml", "c.svs", "c.svs.geojson.gz", "d.svs"
    )
    annotations = {slide.name: slide.annotation for slide in list_slides(tmp_path, "site here")}
    assert annotations == {
        "a.svs": tmp_path / "a.geojson",
        "c.svs": tmp_path / "c.svs.geojson.gz",
        "d.svs": None,
        "ward/b.ome.tif": tmp_path / "annotations/deep/b.xml",
    }


def test_what_a_scanner_leaves_beside_is_no_annotation(tmp_path: Path) -> None:
    files(tmp_path, "a.svs", "scan.xml", "settings.json", content=b"<scan/>")
    assert [slide.annotation for slide in list_slides(tmp_path, "site here")] == [None]


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["a1.svs", "al.geojson"], 'al.geojson is of no slide; call it as its slide, or remove it. Did you mean "a1'),
        (["a.svs", "annotations/b.json"], "annotations/b.json is of no slide"),
        (["a.svs", "a.geojson", "a.xml"], "the slide a.svs has two annotations"),
        (["a.svs", "a.ndpi", "a.geojson"], "may be of several slides (a.ndpi, a.svs)"),
        (["a.dcm"], "put the .dcm files of each slide into a folder of its own"),
    ],
)
def test_what_is_not_said_is_asked_for(tmp_path: Path, names: list[str], sentence: str) -> None:
    files(tmp_path, *names)
    with pytest.raises(MedflError) as error:
        list_slides(tmp_path, "site here")
    assert sentence in str(error.value)


def test_an_annotation_of_no_slide_is_told_from_other_files_by_its_content(tmp_path: Path) -> None:
    files(tmp_path, "a.svs")
    files(tmp_path, "b.json", content=b'[{"type": "Feature"}]')
    with pytest.raises(MedflError, match=r"b\.json is of no slide"):
        list_slides(tmp_path, "site here")


def test_a_large_file_is_known_by_parts_of_it_and_a_small_one_by_all(tmp_path: Path) -> None:
    content = bytearray(20 << 20)
    prints = set()
    for at in (0, len(content) - 1, None, 5 * (len(content) - SAMPLE) // 63):
        changed = bytearray(content)
        if at is not None:
            changed[at] = 1
        (tmp_path / "a.svs").write_bytes(changed)
        with (tmp_path / "a.svs").open("rb", buffering=0) as file:
            prints.add(spread_content(file))
    (tmp_path / "a.svs").write_bytes(content + b"\0")
    with (tmp_path / "a.svs").open("rb", buffering=0) as file:
        prints.add(spread_content(file))
    assert len(prints) == 5


def test_a_slide_of_several_files_is_known_by_all_of_them(tmp_path: Path) -> None:
    files(tmp_path / "s", "m.mrxs", "m/Data0.dat")

    def mark() -> str:
        (slide,) = list_slides(tmp_path / "s", "site here")
        return SlideFingerprints(tmp_path / "s", tmp_path / "cache").of(slide)

    before = mark()
    assert mark() == before
    files(tmp_path / "s", "m/Data0.dat", content=b"y")
    assert mark() != before
