"""Folders that appear whole, and those that killed processes left."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from medfl.data.scratch_folder import OWNER, UNOWNED, folder_size, left_behind, making, resuming

KILLED = """
import os, sys
from pathlib import Path
from medfl.data.scratch_folder import making
with making(Path(sys.argv[1])) as part:
    (part / "half").write_bytes(bytes(1000))
    os.kill(os.getpid(), 9)
"""


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), making(tmp_path / "a") as part:
        part.write_text("")
    assert not list(tmp_path.iterdir())
    with making(tmp_path / "a") as part:
        (part / "x").write_text("first")
        with making(tmp_path / "a") as other:
            (other / "x").write_text("second")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x"]
    assert (tmp_path / "a" / "x").read_text() == "second"  # it was first in its place


def test_nobody_else_enters_a_folder_that_was_made(tmp_path: Path) -> None:
    with making(tmp_path / "a"):
        pass
    with resuming(tmp_path / "b", "part-*"):
        pass
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "b")] == [0o700, 0o700]


def test_what_a_killed_process_left_is_told_from_what_is_being_made(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a")], check=False)
    with making(tmp_path / "b"):
        (dead,) = left_behind(tmp_path)
        assert dead.name.startswith(".a-")
        assert folder_size(dead) == 1000
    (tmp_path / ".link").symlink_to(tmp_path)
    assert left_behind(tmp_path) == [dead]


def test_a_folder_without_a_lock_counts_once_it_is_old(tmp_path: Path) -> None:
    """As version 0.1 left them."""
    old = tmp_path / ".old-1"
    old.mkdir()
    (old / "images.npy").touch()
    assert not left_behind(tmp_path)
    for path in (old / "images.npy", old):
        os.utime(path, (1, path.stat().st_mtime - UNOWNED - 60))
    assert left_behind(tmp_path) == [old]
    assert OWNER.startswith(".")
