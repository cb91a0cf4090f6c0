"""A CSV of patches."""

import re
from pathlib import Path

import pytest

from tests.data.sources.reading import facts, read, refused
from tests.datafiles import (
    pixels,
    write_csv,
    write_image,
)


def table_of(root: Path, rows: list[tuple[object, ...]], header=("path", "label", "source_group")) -> Path:
    return write_csv(root / "patches.csv", header, rows)


def test_csv_reads_paths_labels_and_groups(tmp_path: Path) -> None:
    first, second = write_image(tmp_path / "a" / "1.png", pixels(1)), write_image(tmp_path / "2.png", pixels(2))
    text = f"\ufeffPath;Label;Source_Group;Comment\r\na\\1.png;lung_n;ann;x\r\n\r\n{second};adeno;bob;y\r\n"
    (tmp_path / "patches.csv").write_text(text, encoding="utf-8")  # as a spreadsheet writes it
    catalog = read(tmp_path / "patches.csv", {"adeno": "lung_aca"}, source="csv")
    assert facts(catalog) == [("adeno/2.png", "lung_aca", "bob"), ("lung_n/a/1.png", "lung_n", "ann")]
    assert [catalog.source.describe(reference) for reference in catalog.references] == [str(second), str(first)]


@pytest.mark.parametrize("escape", ["../outside.png", "{absolute}", "link.png", "folder/outside.png"])
def test_csv_paths_stay_in_its_folder(tmp_path: Path, escape: str) -> None:
    outside = write_image(tmp_path / "outside.png", pixels(1))
    home = tmp_path / "home"
    home.mkdir()
    (home / "link.png").symlink_to(outside)
    (home / "folder").symlink_to(tmp_path)
    table = table_of(home, [(escape.format(absolute=outside), "lung_n", "ann")])
    assert re.search(r"patches.csv, line 2: .* leads out of the CSV's folder", refused(table, source="csv"))


def test_csv_errors(tmp_path: Path) -> None:
    write_image(tmp_path / "1.png", pixels(1))
    write_image(tmp_path / "2.png", pixels(2))
    table = table_of(tmp_path, [("1.png", "lung_n", "ann"), ("3.png", "lung_n", "ann")])
    assert "1 of 2 files listed in" in (message := refused(table, source="csv"))
    assert "the first is 3.png" in message
    table_of(tmp_path, [("1.png", "lung_n", "ann"), ("./1.png", "lung_n", "ann")])
    assert "line 3: ./1.png is listed twice" in refused(table, source="csv")
    table_of(tmp_path, [("1.png", "lung_nn", "ann")])
    assert re.search(r'the label "lung_nn".*"lung_n"', refused(table, source="csv"))
    table_of(tmp_path, [("1.png", "lung_n", "ann"), ("2.png", "lung_n", "")])
    assert "1 of 2 rows of" in refused(table, source="csv")
    assert not read(table, source="csv", source_groups="filename").groups_unknown
    assert read(table, source="csv", source_groups="ignore").groups_unknown
    table_of(tmp_path, [("1.png", "lung_n")], ("path", "labl"))
    assert re.search(r'no column label.*path,label.*"labl"', refused(table, source="csv"))


def test_a_path_in_another_unicode_form_and_a_link_to_itself(tmp_path: Path) -> None:
    write_image(tmp_path / "Mu\u0308ller" / "1.png", pixels(1))
    table = table_of(tmp_path, [("M\u00fcller/1.png", "lung_n", "ann")])
    assert len(read(table, source="csv").references) == 1
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    table_of(tmp_path, [("loop.png", "lung_n", "ann")])
    assert "the first is loop.png" in refused(table, source="csv")
