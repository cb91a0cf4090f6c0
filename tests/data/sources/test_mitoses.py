"""Mitotic figures of several scanners: each site's folder below one root, slides as source groups."""

from pathlib import Path

import pytest

from medfl.data.catalog import pipeline_catalog, site_catalog
from medfl.errors import MedflError
from tests.data.sources.reading import facts
from tests.datafiles import needs_mitoses, pipeline, site, write_folders
from tests.paths import MITOSES

CLASSES = ("normal", "atypical")


def two_scanners(root: Path) -> Path:
    write_folders(root / "one", {"normal": 4, "atypical": 2})
    write_folders(root / "two", {"normal": 2})
    return root


def test_a_site_reads_the_folder_of_its_name_and_slides_are_groups(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MEDFL_MITOSES", str(two_scanners(tmp_path)))
    made = pipeline([site("one"), site("two")], classes=CLASSES, source="mitoses", mode="own")
    one, two = (site_catalog(made, each) for each in made.train_sites)
    assert len(one.references) == 6
    assert facts(two)[0] == ("normal/normal-p00/000.png", "normal", "normal-p00")
    assert len(one.group_names) == 3
    assert one.scope != two.scope  # slides of two scanners may share a name


def test_a_root_of_one_site_alone_is_read_as_it_is(tmp_path) -> None:
    root = two_scanners(tmp_path) / "one"
    made = pipeline([site("elsewhere", root)], classes=CLASSES, source="mitoses", mode="own")
    assert len(site_catalog(made, made.train_sites[0]).references) == 6


def test_a_site_without_a_folder_and_dealt_data_are_refused(tmp_path) -> None:
    root = two_scanners(tmp_path)
    made = pipeline([site("twoo")], classes=CLASSES, source="mitoses", mode="own", root=root)
    with pytest.raises(MedflError, match=r'site twoo: no folder twoo in .*only one, two; .*"two"'):
        site_catalog(made, made.train_sites[0])
    with pytest.raises(MedflError, match=r"`data.mode: own`"):
        pipeline_catalog(pipeline([site("one")], classes=CLASSES, source="mitoses", root=root))


@needs_mitoses
def test_the_real_crops_are_all_there() -> None:
    names = ("hamamatsu-xr", "hamamatsu-s360", "aperio-cs2", "tcga")
    made = pipeline([site(name) for name in names], classes=CLASSES, source="mitoses", mode="own", root=MITOSES)
    catalogs = [site_catalog(made, each) for each in made.train_sites]
    assert [len(catalog.references) for catalog in catalogs] == [451, 582, 688, 746]
    assert [len(catalog.group_names) for catalog in catalogs] == [44, 44, 47, 746]
