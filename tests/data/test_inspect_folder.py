"""What `medfl init site` finds in a folder, and the file it writes."""

import os
from pathlib import Path

import numpy as np
import pytest
import yaml

from medfl.config import SiteConfig
from medfl.data.duplicates.group_folder import group_folder
from medfl.data.inspect_folder import inspect_folder, site_yaml
from medfl.data.partition import make_partition
from medfl.data.render import read_patches
from medfl.errors import MedflError
from medfl.pipeline.load_pipeline import load_site
from tests.datafiles import CLASSES, pipeline, pixels, write_csv, write_folders, write_image, write_lc25000


def written(root: Path, tmp_path: Path, name: str | None = None) -> tuple[SiteConfig, str]:
    """The site as read back from the written file, and the file's text."""
    mapping, notes = inspect_folder(root, name)
    path = tmp_path / "site.yaml"
    path.write_text(site_yaml(mapping, notes), encoding="utf-8")
    assert SiteConfig.model_validate(mapping) == load_site(path)
    return load_site(path), path.read_text(encoding="utf-8")


def used(site: SiteConfig, classes: tuple[str, ...] = CLASSES) -> list[int]:
    """Patches per class when the written site file is used as it is."""
    made = pipeline([{**site.model_dump(exclude_none=True), "role": "train"}], classes=classes, mode="own")
    (share,) = make_partition(made).sites
    return np.bincount(share.labels, minlength=len(classes)).tolist()


def test_lc25000_is_recognised(tmp_path: Path) -> None:
    site, text = written(write_lc25000(tmp_path / "My LC_25000", tiles=4, copies=2), tmp_path)
    assert site.name == "my-lc-25000"
    assert site.data is not None
    assert site.data.source == "lc25000"
    assert used(site) == [8] * 5
    assert "# Found 40 images (lc25000): colon_aca 8, colon_n 8" in text
    assert "16 x 16" in text
    flat = tmp_path / "flat"
    write_folders(flat, {"lung_aca": 6, "lung_n": 6})
    mapping, notes = inspect_folder(flat)
    assert mapping["data"]["source"] == "lc25000"
    assert any(note.startswith("No source groups") for note in notes)
    assert "filename" not in site_yaml(mapping, notes).split("data:")[1].replace("label,filename", "")


def test_a_folder_with_patients_needs_nothing_more(tmp_path: Path) -> None:
    site, text = written(write_folders(tmp_path / "klinik", {"adeno": 6, "normal": 8}), tmp_path, "north")
    assert site.name == "north"
    assert site.labels == {"adeno": "adeno", "normal": "normal"}
    assert "Source groups: the 7 sub-folders of the class folders." in text
    assert used(site, ("normal", "adeno")) == [8, 6]


def test_a_folder_without_patients_says_what_is_missing(tmp_path: Path) -> None:
    for number in range(4):
        write_image(tmp_path / "flat" / "adeno" / f"{number}.png", pixels(number, 16 + number))
    (tmp_path / "flat" / "adeno" / "broken.png").touch()
    site, text = written(tmp_path / "flat", tmp_path)
    assert "# No source groups found" in text
    assert "  # source_groups: groups.csv" in text
    assert "Size in pixels of 5 of them" in text
    assert "and 1 other sizes. 1 of them cannot be read." in text
    with pytest.raises(MedflError, match="nothing says which images"):
        used(site, ("adeno", "normal"))
    loaded = yaml.safe_load(text.replace("  # source_groups: groups.csv", "  source_groups: filename"))
    loaded["data"]["source_groups"] = "filename"
    (tmp_path / "flat" / "adeno" / "broken.png").unlink()
    assert used(SiteConfig.model_validate(loaded), ("adeno", "normal")) == [4, 0]


def test_a_csv_or_the_folder_around_it(tmp_path: Path) -> None:
    rows = []
    for number in range(6):
        write_image(tmp_path / "lab" / "images" / f"{number}.png", pixels(number))
        rows.append((f"images/{number}.png", ("b", "a")[number % 2], f"p{number // 2}"))
    table = write_csv(tmp_path / "lab" / "patches.csv", ("path", "label", "source_group"), rows)
    from_file, text = written(table, tmp_path)
    assert from_file.name == "patches"
    assert from_file.data is not None
    assert (from_file.data.source, from_file.data.root) == ("csv", str(table))
    assert "Source groups: 3, from the column source_group." in text
    assert used(from_file, ("a", "b")) == [3, 3]
    from_folder, _ = inspect_folder(tmp_path / "lab")
    assert from_folder["data"] == {"source": "csv", "root": str(table)}


def test_what_cannot_be_inspected(tmp_path: Path) -> None:
    with pytest.raises(MedflError, match="there is no folder"):
        inspect_folder(tmp_path / "absent")
    with pytest.raises(MedflError, match="holds no class folders with images and not one CSV"):
        inspect_folder(tmp_path)
    root = write_folders(tmp_path / "a", {"x": 2})
    with pytest.raises(MedflError, match='"My Site" cannot name a site'):
        inspect_folder(root, "My Site")


@pytest.mark.parametrize(
    "word",
    [
        "x\nmpp: 9",
        "a\rlabels: {}",
        "b\u2028mpp: 9",
        "c\x85mpp: 9",
        "no",
        "1.0",
        "- x: [",
        "# y",
        "'\"",
        "=1+1",
        "&a *b",
    ],
)
def test_a_folders_name_writes_nothing_into_a_site_file(word: str, tmp_path: Path) -> None:
    write_image(tmp_path / word / word / "patient" / "1.png", pixels(1))
    site, text = written(tmp_path / word, tmp_path)
    assert site.mpp is None
    assert site.labels == {word: word}
    assert all(
        line.startswith(("#", " ", "name:", "description:", "labels:", "data:")) or not line
        for line in text.splitlines()
    )


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "own" / "adeno" / "p" / "caf\udce9.png", pixels(1))
    made = pipeline(
        [{"name": "a", "data": {"source": "folder", "root": str(tmp_path / "own")}}], classes=("adeno", "b")
    )
    for use in (
        lambda: inspect_folder(tmp_path / "own"),
        lambda: make_partition(made),
        lambda: read_patches(tmp_path / "own", 8),
        lambda: group_folder(tmp_path / "own", 0.5, lambda *_: None),
    ):
        with pytest.raises(MedflError, match=r'"\S*caf\\udce9.png" is not written in UTF-8; rename it'):
            use()


def test_a_damaged_list_is_not_passed_over(tmp_path: Path) -> None:
    write_folders(tmp_path, {"adeno": 2})
    (tmp_path / "list.csv").write_text('path,label\nadeno/1.png,"adeno\n')
    with pytest.raises(MedflError, match=r"list.csv, line 2: a quotation mark"):
        inspect_folder(tmp_path)
    (tmp_path / "list.csv").write_bytes(b"\x00\x01,\xff")  # something else
    assert inspect_folder(tmp_path)[0]["data"]["source"] == "folder"


def test_a_pipe_in_a_list_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    table = write_csv(tmp_path / "list.csv", ("path", "label"), [("pipe.png", "adeno")])
    _, notes = inspect_folder(table)
    assert "1 of them cannot be read" in notes[1]
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(MedflError, match=r"it is a named pipe, not a regular file"):
        inspect_folder(tmp_path / "pipe.csv")


def test_one_image_beside_the_patients_is_named(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "own", {"adeno": 4, "normal": 2})
    write_image(root / "normal" / "loose.png", pixels(1))
    _, notes = inspect_folder(root)
    assert any("Beside the patients' sub-folders" in note and "normal/loose.png" in note for note in notes)
