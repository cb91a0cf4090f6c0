"""Images that are not taken are counted and told."""

import os
from pathlib import Path

from medfl.data.inspect_folder import inspect_folder
from medfl.data.left_out import left_out
from medfl.data.partition import make_partition
from tests.datafiles import pipeline, pixels, site, write_folders, write_image

SAID = [
    "Left out: 4 images in hidden files and in folders of systems (@eaDir 3, hidden files 1).",
    "Left out: 5 images by content that do not end like one (no ending 2, .dat 1, .gif 1, .svs 1); rename them if they "
    "are patches.",
    "Left out: 2 images in no class folder (. 1, __old 1); move them into one if they are patches.",
]


def messy(root: Path) -> Path:
    """A folder of 12 patches and of much that is none."""
    write_folders(root, {"adeno": 6, "normal": 6})
    patient = root / "adeno" / "adeno-p00"
    for number in range(3):
        write_image(patient / "@eaDir" / f"{number}.png" / "THUMB_M.jpg", pixels(number))
    write_image(patient / "._1.png", pixels(1))
    write_image(root / "loose.jpg", pixels(2))
    write_image(root / "__old" / "1.png", pixels(2))
    for name, suffix in (("a", "png"), ("b", "jpg"), ("c.dat", "png"), ("d.svs", "tif"), ("e.gif", "gif")):
        write_image(patient / f"x.{suffix}", pixels(3)).rename(patient / name)
    for name in ("notes.txt", "Thumbs.db", "empty"):
        (patient / name).write_bytes(b"BMW" if name == "notes.txt" else b"")
    os.mkfifo(patient / "pipe")
    (root / "adeno" / "again").symlink_to(patient)  # reached twice, taken once
    return root


def test_every_image_that_is_not_taken_is_told(tmp_path: Path) -> None:
    root = messy(tmp_path / "own")
    _, notes = inspect_folder(root)
    assert notes[0].startswith("Found 12 images")
    assert notes[1:4] == SAID
    made = make_partition(pipeline([site("a", root, "folder")], classes=("adeno", "normal"), mode="own"))
    assert made.left_out() == [f"site a: {sentence}" for sentence in SAID]


def test_nothing_is_told_of_a_clean_folder(tmp_path: Path) -> None:
    root = write_folders(tmp_path, {"adeno": 2})
    (root / "list.csv").write_text("path,label\n")
    assert left_out(root, ["adeno/adeno-p00/000.png", "adeno/adeno-p00/001.png"]) == []
