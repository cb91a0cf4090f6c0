"""What a group knows of its slides, and what its table gets wrong."""

from pathlib import Path

import pytest

from medfl.data.slides.slide_folder import SlideFiles
from medfl.data.slides.slide_table import SlideFacts, SlideTable, read_slide_table
from medfl.errors import MedflError

SLIDES = [SlideFiles(name, (name,)) for name in ("a.svs", "ward/b.ndpi", "ward/c.ome.tif", "d.svs", "d.ndpi")]


def table(folder: Path, text: str) -> SlideTable:
    (folder / "slides.csv").write_text(text, encoding="utf-8-sig")
    return read_slide_table(folder / "slides.csv", SLIDES, "site here")


def refused(folder: Path, text: str) -> str:
    with pytest.raises(MedflError) as error:
        table(folder, text)
    return str(error.value)


def test_slides_are_named_with_or_without_folder_and_ending(tmp_path: Path) -> None:
    text = "Slide;Patient;Label;MPP\na;P1;tumour;0,25\nward\\b.ndpi;P2;normal;\nc;'=P3;;0.5\n"
    content = table(tmp_path, text)
    assert content.facts == {
        "a.svs": SlideFacts(2, "P1", "tumour", "", 0.25),
        "ward/b.ndpi": SlideFacts(3, "P2", "normal"),
        "ward/c.ome.tif": SlideFacts(4, "=P3", "", "", 0.5),
    }
    assert not content.has_sites


def test_a_table_without_patients_or_without_labels_will_do(tmp_path: Path) -> None:
    assert table(tmp_path, "slide,label\na,x\n").facts["a.svs"].patient == ""
    assert table(tmp_path, "slide,patient,site\na,P,north\n").has_sites


def test_a_patient_with_two_labels_is_noted(tmp_path: Path) -> None:
    (note,) = table(tmp_path, "slide,patient,label\na,P1,tumour\nb,P1,normal\nc,P2,normal\n").notes
    assert "1 patients of" in note
    assert "the first is P1 (tumour: a.svs, normal: ward/b.ndpi)" in note


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("slide,patient\nax,P\n", "line 2: ax names no slide; correct it or remove the row"),
        ("slide,patient\nd,P\n", "line 2: d may be d.ndpi or d.svs; write its file's name"),
        ("slide,patient\na,P\na.svs,P\n", "line 3: the slide a.svs stands in two rows (the other is line 2)"),
        ("slide,patient,site\na,P,north\na,P,south\n", "the slide a stands in site north and site south"),
        ("slide,patient,mpp\na,P,20x\n", "line 2: mpp is 20x, which is no number of microns per pixel"),
        ("slide,patient,mpp\na,P,-1\n", "mpp is -1"),
        ("slide,patient\na,\n", "the cell under patient is empty"),
        ("case,patient\na,P\n", "has no column slide"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    message = refused(tmp_path, text)
    assert message.startswith(f"site here: {tmp_path / 'slides.csv'}")
    assert sentence in message
