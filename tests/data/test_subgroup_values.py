"""Columns of subgroups: read from every kind of table, the same words at all sites, refused where they are many."""

import re

import pytest

from medfl.config import FeatureTables
from medfl.data.bag_files.label_table import read_labels
from medfl.data.catalog import site_catalog
from medfl.data.partition import make_partition
from medfl.data.slides.slide_folder import SlideFiles
from medfl.data.slides.slide_table import read_slide_table
from medfl.data.subgroup_notes import subgroup_rows, without_subgroups
from medfl.errors import MedflError
from medfl.pipeline.load_pipeline import load_pipeline
from tests.datafiles import pixels, write_image
from tests.tiny import write_tiny


def catalog(folder, subgroups, source="csv", root="patches.csv"):
    """The catalog of one site over `folder/site`."""
    made = write_tiny(
        folder,
        task={"classes": ["tumour", "normal"]},
        data={"source": source, "mode": "own", "size": 32},
        sites={"train": [{"name": "here", "data": {"root": str(folder / "site" / root)}}]},
        evaluation={"resamples": 100, "subgroups": subgroups},
    )
    pipeline = load_pipeline(made)
    return site_catalog(pipeline, pipeline.train_sites[0])


def write_table(folder, header, *rows):
    """A CSV of one patch a row, whose name is the row's number."""
    for at in range(len(rows)):
        write_image(folder / "site" / f"{at}.png", pixels(at))
    lines = [f"path,label,source_group,{header}"]
    lines += [f"{at}.png,tumour,p{at},{row}" for at, row in enumerate(rows)]
    (folder / "site" / "patches.csv").write_text("\n".join(lines), encoding="utf-8")


def test_spellings_of_one_word_are_one_value_and_empty_cells_are_not_stated(tmp_path):
    write_table(tmp_path, "Scan_ner,sex", "Aperio AT2,F", " aperio  AT2 ,f", "P1000,", "Not stated,M")
    scanner, sex = catalog(tmp_path, ["scanner", "sex", "stain"]).subgroups
    assert (scanner.name, scanner.values, scanner.codes.tolist()) == ("scanner", ("aperio at2", "p1000"), [0, 0, 1, -1])
    assert (sex.values, sex.codes.tolist()) == (("f", "m"), [0, 0, -1, 1])
    assert catalog(tmp_path, ["stain"]).subgroups == ()


def test_numbers_are_binned_between_edges(tmp_path):
    write_table(tmp_path, "age", "49.9", "50", "65", "", '"64,5"')
    (age,) = catalog(tmp_path, [{"age": [50, 65]}]).subgroups
    assert age.values == ("below 50", "50 to 65", "65 and above")
    assert age.codes.tolist() == [0, 1, 2, -1, 1]
    write_table(tmp_path, "age", "49", "old")
    with pytest.raises(MedflError, match=r'the column age of .*patches.csv is binned .* "old" is no number'):
        catalog(tmp_path, [{"age": [50, 65]}])


def test_a_column_of_many_or_long_values_is_refused_with_a_remedy(tmp_path):
    write_table(tmp_path, "age", *map(str, range(40, 53)))
    says = r"site here: the column age of .*patches.csv has 13 values, .* may have 12; bin numbers, `{age: \[50, 65\]}`"
    with pytest.raises(MedflError, match=says):
        catalog(tmp_path, ["age"])
    write_table(tmp_path, "age", "x" * 41, "y")
    with pytest.raises(MedflError, match="one may have 40 characters; shorten it"):
        catalog(tmp_path, ["age"])


def test_a_folder_has_a_table_of_its_source_groups(tmp_path):
    for label, patient in (("tumour", "a"), ("normal", "b"), ("normal", "c")):
        write_image(tmp_path / "site" / label / patient / "0.png", pixels(ord(patient)))
    table = tmp_path / "site" / "subgroups.csv"
    table.write_text("source_group,scanner\na,P1000\nb,AT2\n")
    (scanner,) = catalog(tmp_path, ["scanner", "sex"], "folder", "").subgroups
    assert (scanner.values, scanner.codes.tolist()) == (("at2", "p1000"), [0, -1, 1])
    table.write_text("source_group,scanner\na,P1000\na,AT2\n")
    with pytest.raises(MedflError, match=r"subgroups.csv, line 3: the source group a has another scanner"):
        catalog(tmp_path, ["scanner"], "folder", "")
    table.write_text("source_group,scanner\nA17,P1000\n")
    with pytest.raises(MedflError, match="names none of the source groups, the first of which is b"):
        catalog(tmp_path, ["scanner"], "folder", "")


def test_tables_of_slides_and_of_features_have_the_columns(tmp_path):
    (tmp_path / "slides.csv").write_text("slide,patient,label,Scanner\n1.svs,a,tumour,AT2\n2.svs,b,normal,\n")
    slides = [SlideFiles("1.svs", ("1.svs",)), SlideFiles("2.svs", ("2.svs",))]
    facts = read_slide_table(tmp_path / "slides.csv", slides, "site here", ("scanner", "sex")).facts
    assert [facts[name].cells for name in ("1.svs", "2.svs")] == [{"scanner": "AT2"}, {"scanner": ""}]
    table = read_labels(FeatureTables(), tmp_path, "site here", ("scanner",))
    assert [own.cells for own in table.slides.values()] == [{"scanner": "AT2"}, {"scanner": ""}]
    (tmp_path / "clinic.csv").write_text("PATIENT,label,sex\na,tumour,F\nb,normal,M\n")
    tables = FeatureTables(table=str(tmp_path / "clinic.csv"), slide_table=str(tmp_path / "slides.csv"))
    both = read_labels(tables, tmp_path, "site here", ("scanner", "sex")).slides
    assert both["1"].cells == {"sex": "F", "scanner": "AT2"}


def test_counts_and_sites_without_a_column_are_told(tmp_path):
    from tests.subgroup_sites import write_pipeline

    partition = make_partition(load_pipeline(write_pipeline(tmp_path)))
    rows = {tuple(row[:3]): row[3:] for row in subgroup_rows(partition)}
    assert rows["north", "scanner", "p1000"] == ["24 (12)", "24 (12)"]
    assert rows["ward", "scanner", "aperio at2"][0] == "48 (24)"
    assert ("south", "scanner", "not stated") not in rows
    said = without_subgroups(partition)
    assert [re.search(r"No column (\w+) at (\w+):", sentence).groups() for sentence in said] == [
        ("scanner", "south"),
        ("age", "south"),
    ]
