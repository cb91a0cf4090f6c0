"""Files are known by all their bytes, and read once."""

import os
from pathlib import Path

import pytest

from medfl.data import fingerprints
from medfl.data.fingerprints import Fingerprints


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files that were read, by name."""
    names: list[str] = []
    read = fingerprints._read
    monkeypatch.setattr(
        fingerprints, "_read", lambda path, how: names.append(os.path.basename(path)) or read(path, how)
    )
    monkeypatch.setattr(fingerprints, "SETTLE", -1)
    return names


def prints(root: Path, *names: str) -> list[str]:
    return Fingerprints(str(root / "images"), root / "cache").of(names)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("a", "b", "c\n\udcff"):
        (tmp_path / "images" / name).write_bytes(name.encode(errors="surrogateescape") * 100_000)
    return tmp_path


def test_a_second_start_reads_nothing_and_a_changed_file_is_read(images: Path, reads: list[str]) -> None:
    names = ("a", "b", "c\n\udcff")
    first = prints(images, *names)
    assert len(set(first)) == 3
    assert prints(images, *names) == first
    assert len(reads) == 3
    file = images / "images" / "b"
    status = file.stat()
    content = bytearray(file.read_bytes())
    content[70_000] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a tool does that keeps dates
    again = prints(images, *names)
    assert [one == other for one, other in zip(first, again, strict=True)] == [True, False, True]
    assert reads[3:] == ["b"]


def test_a_file_that_was_just_written_gets_no_note(images: Path, reads: list[str], monkeypatch) -> None:
    monkeypatch.setattr(fingerprints, "SETTLE", 2_000_000_000)
    assert prints(images, "a") == prints(images, "a")
    assert reads == ["a", "a"]


def test_a_damaged_note_is_not_believed(images: Path, reads: list[str]) -> None:
    first = prints(images, "a", "b")
    (notes,) = (images / "cache").iterdir()
    whole = notes.read_bytes()
    for at in range(0, len(whole), 7):
        notes.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert prints(images, "a", "b") == first
    notes.write_bytes(whole[:-20])
    assert prints(images, "a", "b") == first
    assert prints(images, "a", "b") == first


def test_a_pipe_is_not_waited_for(images: Path) -> None:
    os.mkfifo(images / "images" / "pipe.png")
    with pytest.raises(OSError, match="not a regular file"):
        prints(images, "pipe.png")
