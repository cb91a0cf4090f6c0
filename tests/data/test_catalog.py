"""Catalogs: layouts, roots, class names, source groups, and everything that may be wrong with them."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from medfl.config.spelling import show
from medfl.data.catalog import pipeline_catalog, site_catalog
from medfl.data.partition import make_partition
from medfl.errors import MedflError
from medfl.pipeline.load_pipeline import dump_pipeline, load_pipeline
from tests.data.sources.reading import facts, read, refused
from tests.datafiles import (
    pipeline,
    pixels,
    site,
    write_csv,
    write_folders,
    write_image,
    write_lc25000,
)
from tests.tiny import write_tiny


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


def patients(source: str, folder: Path, one: str, other: str) -> Path:
    """Data of one kind of source with two patients of these names; what `data.root` names."""
    rows = [("lung_aca", "a1.png", one), ("lung_n", "n1.png", other)]
    if source == "folder":
        for label, file, patient in rows:
            write_image(folder / label / patient / file, pixels(len(file)))
        return folder
    if source == "csv":
        for _, file, _ in rows:
            write_image(folder / file, pixels(1))
        return write_csv(folder / "all.csv", ("path", "label", "source_group"), [(f, w, p) for w, f, p in rows])
    for label, file, _ in rows:
        write_image(folder / ("lung_image_sets" if source == "lc25000" else "") / label / file, pixels(1))
    write_csv(folder / "source_groups.csv", ("label", "filename", "source_group"), rows)
    return folder


SPELT = [("PAT1", "Pat1"), ("00001", "1"), ("1", "1.0"), ("Pat 1", "Pat1"), ("Pat1", "Pat\u200b1"), ("P\xad1", "P1")]
KINDS = ("folder", "csv", "group table", "lc25000", "tissue")


@pytest.mark.parametrize("kind", KINDS)
def test_one_patient_in_two_spellings_is_joined_or_refused(kind: str, tmp_path: Path) -> None:
    source = {"group table": "folder"}.get(kind, kind)

    def group_names(root: Path, **data: object) -> tuple[str, ...]:
        if source == "tissue":
            return pipeline_catalog(pipeline([site("here")], source=source, root=root, **data)).group_names
        return read(root, source=source, **data).group_names

    composed, decomposed = "M\u00fcller", "Mu\u0308ller"
    assert group_names(patients(kind, tmp_path / "forms", composed, decomposed)) == (composed,)
    for number, (one, other) in enumerate(SPELT[:: 1 if kind == "csv" else 4]):
        root = patients(kind, tmp_path / str(number), one, other)
        with pytest.raises(MedflError, match=r"differ in spelling only.*`data.distinct_names`") as error:
            group_names(root)
        assert all(f'"{show(name)}"' in str(error.value) for name in (one, other))
        assert group_names(root, distinct_names=[one, other]) == tuple(sorted((one, other)))
    assert group_names(patients(kind, tmp_path / "two", "Pat1", "Pat2")) == ("Pat1", "Pat2")


def test_names_of_files_are_no_names_of_patients(tmp_path: Path) -> None:
    for name in ("1.png", "01.png"):
        write_image(tmp_path / "lung_n" / name, pixels(1))
    for word in ("filename", "ignore"):
        assert len(read(tmp_path, source="folder", source_groups=word).group_names) == 2


def test_a_class_in_another_unicode_form_is_that_class_and_in_another_spelling_is_refused(tmp_path: Path) -> None:
    classes = ("tubul\u00e4r", "normal", "gesund")
    root = write_folders(tmp_path / "own", {"tubula\u0308r": 1, "normal": 1})
    made = pipeline([site("here")], classes=classes, mode="own", source="folder", root=root)
    assert site_catalog(made, made.train_sites[0]).labels.tolist() == [1, 0]
    for word in ("Normal", "nor\u200bmal", "normal "):
        write_image(root / word / "p" / "1.png", pixels(1))
        with pytest.raises(MedflError, match=r'is the class "normal" of `task.classes` in another spelling') as error:
            site_catalog(made, made.train_sites[0])
        assert f'the folder "{show(word)}"' in str(error.value)
        mapped = pipeline(
            [site("here", labels={word: "normal"})], classes=classes, mode="own", source="folder", root=root
        )
        assert site_catalog(mapped, mapped.train_sites[0]).labels.tolist().count(1) == 2
        shutil.rmtree(root / word)
    with pytest.raises(ValueError, match='"normal" and "Normal" differ in spelling only'):
        pipeline([site("here")], classes=("normal", "Normal"))


def test_a_word_mapped_to_null_is_left_out_and_counted(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "own", {"lung_aca": 4, "lung_n": 2, "artefact": 3})
    write_image(root / "artefact" / "loose.png", pixels(1))  # nobody asks whose it is
    labels = {"lung_n": None, "artefact": None}
    made = pipeline([], [site("here", root, "folder", labels=labels)], mode="own")
    partition = make_partition(made)
    assert [share.labels.tolist() for share in partition.sites] == [[0, 0, 0, 0]]
    assert partition.dropped() == ["site here: 6 patches dropped by `labels` (artefact 4, lung_n 2)"]
    assert partition.left_out() == []
    assert "drops every class" in refused(root, {**labels, "lung_aca": None}, source="folder")


def test_a_dropped_word_stays_dropped_in_the_run_folder(tmp_path: Path) -> None:
    path = write_tiny(tmp_path, sites={"train": [{"name": "a", "labels": {"x": None, "y": "lung_n"}}]})
    loaded = load_pipeline(path)
    path.write_text(dump_pipeline(loaded))
    assert load_pipeline(path).train_sites[0].labels == {"x": None, "y": "lung_n"}
