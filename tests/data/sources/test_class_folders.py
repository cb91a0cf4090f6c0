"""A folder per class: groups, names, and what is not looked at."""

import re
from pathlib import Path

from tests.data.sources.reading import facts, read, refused
from tests.datafiles import (
    pixels,
    write_csv,
    write_folders,
    write_image,
)


def test_folder_groups_are_subfolders_a_csv_or_what_the_user_says(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "own", {"lung_aca": 4, "lung_n": 2}, per_group=2)
    assert read(root, source="folder").group_names == ("lung_aca-p00", "lung_aca-p01", "lung_n-p00")
    write_image(root / "lung_n" / "loose.png", pixels(1))
    assert re.search(
        r"1 of 7 images lie beside .*lung_n/loose.png; move .*filename.*ignore", refused(root, source="folder")
    )
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
