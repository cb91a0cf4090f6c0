"""Files appear whole under their name, and neither they nor files that grow are written through a link."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from medfl.data.atomic_file import append_text, open_private, others_can_read, replacing, write_text


@pytest.fixture
def victim(tmp_path):
    file = tmp_path / "victim"
    file.write_text("mine\n")
    return file


def test_a_link_in_the_place_of_a_file_is_replaced_and_what_it_names_stays(tmp_path, victim):
    target = tmp_path / "run" / "report.html"
    target.parent.mkdir()
    target.symlink_to(victim)
    for number in (os.getpid(), ""):
        (target.parent / f"report.html.{number}.tmp".replace("..", ".")).symlink_to(victim)
    write_text(target, "page")
    assert victim.read_text() == "mine\n"
    assert target.read_text() == "page"
    assert not target.is_symlink()


def test_no_line_is_added_through_a_link(tmp_path, victim):
    (tmp_path / "rounds.jsonl").symlink_to(victim)
    with pytest.raises(OSError, match=r"rounds\.jsonl"):
        append_text(tmp_path / "rounds.jsonl", "{}\n")
    assert victim.read_text() == "mine\n"


def test_nobody_else_enters_where_a_file_is_staged_and_nothing_is_left(tmp_path):
    target = tmp_path / "file"
    modes = []

    def write_half() -> None:
        with replacing(target) as staged:
            staged.write_text("half")
            modes.append(staged.parent.stat().st_mode & 0o777)
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        write_half()
    assert modes == [0o700]
    assert list(tmp_path.iterdir()) == []
    write_text(target, "whole")
    assert target.stat().st_mode & 0o777 == 0o666 & ~_umask()


def test_a_private_file_is_this_users_alone_also_where_it_was_not(tmp_path):
    file = tmp_path / "file"
    file.write_text("open")
    file.chmod(0o644)
    write_text(file, "closed", private=True)
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o644)
    with open(file, "a", opener=open_private) as stream:
        stream.write(", too")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("closed, too", 0o600)


def test_others_read_what_they_can_come_to(tmp_path, monkeypatch):
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    inner.chmod(0o755)
    for outer, readable in ((0o755, True), (0o711, True), (0o700, False)):
        inner.parent.chmod(outer)
        modes = {place: place.stat().st_mode for place in (inner, inner.parent)}
        monkeypatch.setattr(Path, "stat", lambda self, m=modes: SimpleNamespace(st_mode=m.get(self, 0o755)))
        assert others_can_read(inner) is readable
        monkeypatch.undo()
    assert not others_can_read(tmp_path / "none")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
