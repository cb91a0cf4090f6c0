"""Source groups of a folder, found by its pixels and written as a CSV."""

from pathlib import Path

import pytest

from medfl.data.catalog import pipeline_catalog
from medfl.data.duplicates.group_folder import group_folder
from medfl.data.synthetic.tissue import TISSUE_CLASSES, draw_copies, write_tissue
from medfl.errors import MedflError
from tests.data.duplicates.windows import agreement, silent
from tests.datafiles import pipeline, write_image


@pytest.fixture(scope="module")
def tissue(tmp_path_factory) -> Path:
    """5 classes x 3 tiles x 3 copies, and the truth in source_groups.csv."""
    root = tmp_path_factory.mktemp("copies") / "tissue"
    return write_tissue(root, classes=TISSUE_CLASSES, tiles_per_class=3, copies=3, size=96, seed=5)


def test_the_written_groups_are_the_tiles_and_are_read_by_a_pipeline(tissue, tmp_path, cli):
    out = tmp_path / "groups.csv"
    said = cli("data", "group", tissue, "--out", out)
    assert "Images: 45; groups: 15; groups of several images: 15, the largest of 3; images without a copy: 0" in said
    assert out.read_text().startswith("path,source_group\ncolon_image_sets/colon_aca/colonca1.jpeg,copies-")
    truth = pipeline_catalog(pipeline([], root=tissue, source="lc25000"))
    found = pipeline_catalog(pipeline([], root=tissue, source="lc25000", source_groups=out))
    assert found.names == truth.names
    assert not found.groups_unknown
    assert agreement(found.groups, truth.groups) == (1.0, 1.0)
    twice = tmp_path / "again.csv"
    cli("data", "group", tissue, "--out", twice)
    assert twice.read_bytes() == out.read_bytes()
    with pytest.raises(MedflError, match="exists already; name another file with --out"):
        cli("data", "group", tissue, "--out", out)


def test_a_tile_in_two_classes_is_linked_and_told(tmp_path, cli):
    one, two, other = (*draw_copies("lung_scc", 0, 0, 96, 2), draw_copies("lung_n", 0, 1, 96, 1)[0])
    write_image(tmp_path / "data" / "scc" / "p1" / "a.png", one)
    write_image(tmp_path / "data" / "aca" / "p2" / "b.png", two)
    write_image(tmp_path / "data" / "aca" / "p3" / "c.png", other)
    (tmp_path / "data" / "aca" / "broken.png").write_bytes(b"")
    out = tmp_path / "groups.csv"
    said = cli("data", "group", tmp_path / "data", "--out", out)
    assert "In several class folders: aca/p2/b.png and its copies (aca 1, scc 1)" in said
    assert "Cannot be read, a group of its own: aca/broken.png (zero bytes)" in said
    groups = dict(line.split(",") for line in out.read_text().split()[1:])
    assert groups["aca/p2/b.png"] == groups["scc/p1/a.png"]
    assert len(set(groups.values())) == 3


def test_folders_that_cannot_be_grouped_are_refused_in_a_sentence(tmp_path, cli):
    with pytest.raises(MedflError, match="there is no folder"):
        group_folder(tmp_path / "nowhere", 0.75, silent)
    with pytest.raises(MedflError, match=r"holds no image; images end in \.jpeg"):
        group_folder(tmp_path, 0.75, silent)
    (tmp_path / "a.jpeg").write_bytes(b"no image")
    with pytest.raises(MedflError, match=r"none of 1 images can be read, the first is a\.jpeg \(not an image\)"):
        group_folder(tmp_path, 0.75, silent)
    with pytest.raises(MedflError, match=r"cannot be written: No such file or directory; name another file with --out"):
        cli("data", "group", tmp_path, "--out", tmp_path / "none" / "groups.csv")
    write_image(tmp_path / "a.jpeg", draw_copies("lung_n", 0, 0, 96, 1)[0])
    assert "Images: 1; groups: 1; groups of several images: 0, the largest of 1; images without a copy: 1" in cli(
        "data", "group", tmp_path, "--out", tmp_path / "one.csv"
    )
