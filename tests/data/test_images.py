"""Which files of a folder are images."""

import os
from pathlib import Path

import pytest

from medfl.data.images import images_below
from tests.datafiles import pixels, write_image

SYSTEM = (
    "@eaDir",
    "__MACOSX",
    ".AppleDouble",
    ".thumbnails",
    "$RECYCLE.BIN",
    "lost+found",
    "System Volume Information",
)


def names(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in images_below(root)]


@pytest.mark.parametrize("folder", SYSTEM)
def test_what_systems_keep_for_themselves_is_skipped_at_any_depth(folder: str, tmp_path: Path) -> None:
    for at in (".", "p1", "p1/deep"):
        for name in (f"{folder}/1.png", f"{folder}/below/2.png", "._1.png", "Thumbs.db", "1.png"):
            write_image(tmp_path / at / f"{name}.png", pixels(1)).rename(tmp_path / at / name)
    assert names(tmp_path) == ["1.png", "p1/1.png", "p1/deep/1.png"]


def test_endings_of_jpeg_files_count_in_any_case(tmp_path: Path) -> None:
    for name in ("a.jfif", "b.JPE", "c.jpeg", "d.JPG", "e.txt"):
        write_image(tmp_path / "x.jpg", pixels(1)).rename(tmp_path / name)
    assert names(tmp_path) == ["a.jfif", "b.JPE", "c.jpeg", "d.JPG"]


def test_a_pipe_is_no_image_and_a_link_to_nothing_is_one_that_lacks(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "lacks.png").symlink_to(tmp_path / "nothing.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "null.png").symlink_to("/dev/null")
    assert names(tmp_path) == ["lacks.png", "loop.png"]
