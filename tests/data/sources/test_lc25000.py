"""LC25000: its three layouts and its source groups."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.data.sources.reading import facts, read, refused
from tests.datafiles import (
    CLASSES,
    needs_lc25000,
    real_lc25000,
    write_lc25000,
)


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
