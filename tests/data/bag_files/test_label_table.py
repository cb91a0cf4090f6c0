import pytest

from medfl.config import FeatureTables
from medfl.data.bag_files.label_table import LabelledSlide, read_labels
from medfl.errors import MedflError
from tests.bags import table

ONE = {"s1": LabelledSlide("s1", "p1", "a"), "s2": LabelledSlide("s2", "p1", "b")}


@pytest.mark.parametrize(
    "lines",
    [
        ("case_id,slide_id,label", "p1,s1,a", "p1,s2,b"),
        ("patient;slide;label;site", "p1;s1.svs;a;x", "p1;s2.svs;b;x"),
        ("PATIENT,FILENAME,label", "p1,s1.h5,a", "p1,x/s2.h5,b"),
    ],
)
def test_one_table_of_slides(tmp_path, lines):
    table(tmp_path / "slides.csv", *lines)
    assert read_labels(FeatureTables(), tmp_path, "site a").slides == ONE


def stamp(folder, clinical, slides):
    table(folder / "clini.csv", "PATIENT,isMSIH", *clinical)
    table(folder / "slide.csv", "PATIENT,FILENAME", *slides)
    return FeatureTables(table=str(folder / "clini.csv"), slide_table=str(folder / "slide.csv"), label="isMSIH")


def test_a_clinical_and_a_slide_table(tmp_path):
    tables = stamp(tmp_path, ["p1,yes", "p1,yes", "p2,no"], ["p1,s1.h5", "p2,s2.h5", "p3,s3.h5"])
    made = read_labels(tables, tmp_path, "site a")
    assert [(own.slide, own.patient, own.label) for own in made.slides.values()] == [
        ("s1", "p1", "yes"),
        ("s2", "p2", "no"),
    ]
    assert made.unlabelled == ("s3",)


@pytest.mark.parametrize(
    ("clinical", "slides", "reason"),
    [
        (["p1,yes", "p1,no"], ["p1,s1"], r"clini.csv, line 3: the patient p1 has the labels yes and no"),
        (["p1,yes"], ["p1,s1", "p1,s1.svs"], r"slide.csv, line 3: the slide s1 is listed twice, first in line 2"),
        (["p1,yes"], ["p9,s1"], r"no patient of .*slide.csv has a row in .*clini.csv"),
        (["p1,yes", "p2,"], ["p1,s1"], r"clini.csv, line 3"),
    ],
)
def test_tables_that_contradict_themselves(tmp_path, clinical, slides, reason):
    with pytest.raises(MedflError, match=reason):
        read_labels(stamp(tmp_path, clinical, slides), tmp_path, "site a")


def test_no_table_and_none_with_the_column(tmp_path):
    with pytest.raises(MedflError, match=r"^site a: nothing says what the slides of .* show; .*`data.features.table`"):
        read_labels(FeatureTables(), tmp_path, "site a")
    table(tmp_path / "slides.csv", "patient,slide,label", "p1,s1,a", "p2,s1,a")
    with pytest.raises(MedflError, match="has no column grade"):
        read_labels(FeatureTables(label="grade"), tmp_path, "site a")
    with pytest.raises(MedflError, match="line 3: the slide s1 is listed twice"):
        read_labels(FeatureTables(), tmp_path, "site a")
