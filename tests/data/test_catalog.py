"""Catalogs: layouts, roots, class names, source groups, and everything that may be wrong with them."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from medfl.data.catalog import pipeline_catalog, site_catalog
from medfl.errors import MedflError
from tests.data.sources.reading import facts, read, refused
from tests.datafiles import (
    pipeline,
    site,
    write_csv,
    write_folders,
    write_lc25000,
)


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
