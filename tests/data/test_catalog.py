"""Catalogs: layouts, roots, class names, source groups, and everything that may be wrong with them."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from medfl.data.catalog import Catalog, pipeline_catalog, site_catalog
from medfl.errors import MedflError
from tests.datafiles import (
    CLASSES,
    needs_lc25000,
    pipeline,
    pixels,
    real_lc25000,
    site,
    write_csv,
    write_folders,
    write_image,
    write_lc25000,
)


def read(root: Path, labels: dict[str, str] | None = None, **data: object) -> Catalog:
    made = pipeline([site("here", labels=labels or {})], mode="own", root=root, **data)
    return site_catalog(made, made.train_sites[0])


def refused(root: Path, labels: dict[str, str] | None = None, **data: object) -> str:
    with pytest.raises(MedflError) as error:
        read(root, labels, **data)
    return str(error.value)


def facts(catalog: Catalog) -> list[tuple[str, str, str]]:
    rows = zip(catalog.names, catalog.labels, catalog.groups, strict=True)
    return [(name, catalog.classes[label], catalog.group_names[group]) for name, label, group in rows]


def test_lc25000_reads_the_same_in_its_three_layouts(tmp_path: Path) -> None:
    nested = write_lc25000(tmp_path / "a", tiles=2, copies=3)
    parent = tmp_path / "b"
    shutil.copytree(nested, parent / "lung_colon_image_set")
    (parent / "lung_colon_image_set" / "source_groups.csv").rename(parent / "source_groups.csv")
    flat = tmp_path / "c"
    for folder in nested.glob("*_image_sets/*"):
        shutil.copytree(folder, flat / folder.name)
    shutil.copy(nested / "source_groups.csv", flat)
    first = read(nested)
    assert facts(first) == facts(read(parent)) == facts(read(flat))
    assert facts(first)[0] == ("colon_aca/colonaca1.png", "colon_aca", "colon_aca-0000")
    assert np.bincount(first.labels).tolist() == [6] * 5
    assert len(first.group_names) == 10
    assert not first.groups_unknown
    assert first.classes == CLASSES


def test_order_does_not_depend_on_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_lc25000(tmp_path, tiles=3, copies=2)
    before = read(root)
    walk, iterdir = os.walk, Path.iterdir

    def backwards(top, **options):
        for at, folders, files in walk(top, **options):
            yield at, folders, sorted(files, reverse=True)

    monkeypatch.setattr(os, "walk", backwards)
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(sorted(iterdir(self), reverse=True)))
    after = read(root)
    assert before.references == after.references
    assert facts(before) == facts(after)


def test_root_comes_from_site_then_pipeline_then_environment(tmp_path, monkeypatch) -> None:
    roots = [write_lc25000(tmp_path / str(n), tiles=n, copies=1) for n in (1, 2, 3)]
    monkeypatch.setenv("MEDFL_LC25000", str(roots[2]))
    from_environment = pipeline([site("here")])
    assert len(pipeline_catalog(from_environment).references) == 15
    from_pipeline = pipeline([site("here"), site("there", roots[0])], mode="own", root=roots[1])
    assert len(site_catalog(from_pipeline, from_pipeline.train_sites[0]).references) == 10
    assert len(site_catalog(from_pipeline, from_pipeline.train_sites[1]).references) == 5


def test_missing_roots_name_the_key_and_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDFL_LC25000", raising=False)
    made = pipeline([site("here")])
    with pytest.raises(MedflError, match=r"pipeline toy: `data.root` is missing.*MEDFL_LC25000"):
        pipeline_catalog(made)
    (tmp_path / "patches").mkdir()
    assert re.search(
        r'site here: `data.root` names .*patchs, which does not exist.*"patches"', refused(tmp_path / "patchs")
    )
    monkeypatch.setenv("MEDFL_LC25000", str(tmp_path / "none"))
    with pytest.raises(MedflError, match=r"environment variable MEDFL_LC25000 names .*none"):
        pipeline_catalog(made)
    assert "no image in" in refused(tmp_path / "patches")
    assert "is no folder" in refused(write_csv(tmp_path / "x.csv", ("path", "label"), []), source="folder")
    assert "must name the CSV file" in refused(tmp_path / "patches", source="csv")


def test_generated_tissue_is_no_own_data() -> None:
    made = pipeline([site("here")], source="tissue", mode="own")
    with pytest.raises(MedflError, match=r"site here: `data.source` is not stated"):
        site_catalog(made, made.train_sites[0])


def test_lc25000_without_source_groups_is_refused_and_says_why(tmp_path: Path) -> None:
    root = write_lc25000(tmp_path / "lc", groups=False)
    message = refused(root)
    assert "10.1007/978-3-031-73748-0_2" in message
    assert "near copies" in message
    assert "source_groups: ignore" in message
    assert "does not hold for lc25000" in refused(root, source_groups="filename")
    leaky = read(root, source_groups="ignore")
    assert leaky.groups_unknown
    assert len(leaky.group_names) == len(leaky.references)


@pytest.mark.parametrize("place", ["inside", "beside", "stated"])
def test_lc25000_source_groups_are_found(tmp_path: Path, place: str) -> None:
    root = write_lc25000(tmp_path / "lc", tiles=2, copies=2)
    table = root / "source_groups.csv"
    keys = {}
    if place == "beside":
        table.rename(tmp_path / "lc25000_source_groups.csv")
    elif place == "stated":
        keys["source_groups"] = table.rename(tmp_path / "mine.csv")
    catalog = read(root, **keys)
    assert len(catalog.group_names) == 10
    # groups published for LC25000 name the same tiles everywhere; those inside a root are that root's own
    assert catalog.scope == (str(root) if place == "inside" else "lc25000")


def test_bad_source_group_tables(tmp_path: Path) -> None:
    root = write_lc25000(tmp_path / "lc", tiles=1, copies=3, groups=False)
    header = ("label", "filename", "source_group")
    table = write_csv(tmp_path / "g.csv", header, [("colon_aca", "colonaca1.png", "a")])
    assert re.search(
        r"14 of 15 images have no row in .*g.csv.*first is colon_aca/colonaca2.png", refused(root, source_groups=table)
    )
    write_csv(table, header, [("lung_n", "x.png", "a"), ("lung_n", "x.png", "b")])
    assert re.search(r"line 3: lung_n/x.png has two source groups", refused(root, source_groups=table))
    write_csv(table, ("label", "filename", "source_grup"), [])
    assert re.search(r'no column source_group.*"source_grup"', refused(root, source_groups=table))
    write_csv(table, header, [("lung_n", "x.png", "")])
    assert "line 2: the cell under source_group is empty" in refused(root, source_groups=table)
    assert "names" in refused(root, source_groups=tmp_path / "absent.csv")
    table.write_bytes(b"label,filename,source_group\n\xff\xfe\x00")
    assert "cannot be read as CSV" in refused(root, source_groups=table)


def test_folder_groups_are_subfolders_a_csv_or_what_the_user_says(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "own", {"lung_aca": 4, "lung_n": 2}, per_group=2)
    assert read(root, source="folder").group_names == ("lung_aca-p00", "lung_aca-p01", "lung_n-p00")
    write_image(root / "lung_n" / "loose.png", pixels(1))
    assert re.search(r"<class>/<patient>/.*filename.*ignore", refused(root, source="folder"))
    each = read(root, source="folder", source_groups="filename")
    assert len(each.group_names) == 7
    assert not each.groups_unknown
    assert read(root, source="folder", source_groups="ignore").groups_unknown
    rows = [(f"lung_aca/lung_aca-p{n // 2:02d}/{n:03d}.png", "ann") for n in range(4)]
    rows += [("lung_n\\lung_n-p00\\000.png", "bob"), ("lung_n/lung_n-p00/001.png", "bob"), ("lung_n/loose.png", "ann")]
    write_csv(root / "source_groups.csv", ("path", "source_group"), rows)
    by_table = read(root, source="folder")
    assert by_table.group_names == ("ann", "bob")
    assert {name: group for name, _, group in facts(by_table)}["lung_n/loose.png"] == "ann"


def test_one_subfolder_name_in_two_classes_is_one_patient(tmp_path: Path) -> None:
    for label in ("lung_aca", "lung_n"):
        write_image(tmp_path / label / "ann" / "1.png", pixels(1))
    assert read(tmp_path, source="folder").group_names == ("ann",)


def test_class_names_are_mapped_absent_or_refused(tmp_path: Path) -> None:
    root = write_folders(tmp_path, {"adeno": 2, "adeno_2": 2, "lung_n": 2})
    labels = {"adeno": "lung_aca", "adeno_2": "lung_aca"}
    catalog = read(root, labels, source="folder")
    assert np.bincount(catalog.labels, minlength=5).tolist() == [4, 2, 0, 0, 0]
    assert re.search(
        r'site here: the folder "adeno_2".*`labels: \{adeno_2: ...\}`.*"adeno"',
        refused(root, {"adeno": "lung_aca"}, source="folder"),
    )
    assert '"adeno" of' in (message := refused(root, {"adeno": "lung_acaa", "adeno_2": "lung_aca"}, source="folder"))
    assert 'Did you mean "lung_aca"' in message
    (root / "colon_ac").mkdir()  # an empty folder is misspelt all the same
    assert re.search(r'"colon_ac" of .*"colon_aca"', refused(root, labels, source="folder"))


def test_hidden_and_other_files_are_ignored_and_case_is_not(tmp_path: Path) -> None:
    root = write_folders(tmp_path, {"lung_aca": 2})
    write_image(root / "lung_aca" / "lung_aca-p00" / "big.TIFF", pixels(7))
    for name in (".hidden/x.png", "lung_aca/.x.png", "lung_aca/lung_aca-p00/notes.txt", "readme.csv", "__MACOSX/x.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    assert [name for name, _, _ in facts(read(root, source="folder"))] == [
        "lung_aca/lung_aca-p00/000.png",
        "lung_aca/lung_aca-p00/001.png",
        "lung_aca/lung_aca-p00/big.TIFF",
    ]


def test_a_link_to_a_parent_folder_does_not_walk_for_ever(tmp_path: Path) -> None:
    root = write_folders(tmp_path, {"lung_aca": 2})
    (root / "lung_aca" / "lung_aca-p00" / "loop").symlink_to(root / "lung_aca")
    assert len(read(root, source="folder").references) == 2


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


def test_generated_tissue_is_written_once_and_read_as_lc25000(tmp_path: Path) -> None:
    made = pipeline(
        [site("here")], source="tissue", cache=tmp_path, tissue={"tiles_per_class": 2, "copies": 2, "size": 32}
    )
    catalog = pipeline_catalog(made)
    assert np.bincount(catalog.labels).tolist() == [4] * 5
    assert len(catalog.group_names) == 10
    (folder,) = tmp_path.glob("tissue-*")
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*.jpeg")}
    again = pipeline_catalog(made)
    assert again.references == catalog.references
    assert again.source.place == catalog.source.place == str(folder)
    assert written == {path: path.stat().st_mtime_ns for path in folder.rglob("*.jpeg")}


@needs_lc25000
def test_the_real_lc25000() -> None:
    catalog = read(real_lc25000())
    assert not catalog.groups_unknown
    assert (np.bincount(catalog.labels, minlength=5) > 0).all()
    assert 5 < len(catalog.group_names) < len(catalog.references)
    labels_of = {}
    for label, group in zip(catalog.labels, catalog.groups, strict=True):
        assert labels_of.setdefault(group, label) == label  # a tile shows one class
    assert list(catalog.names) == sorted(catalog.names, key=lambda name: name.split("/"))
