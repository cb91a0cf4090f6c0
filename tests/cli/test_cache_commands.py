"""`medfl cache`: what is there, what is damaged, what was left behind."""

import json
import os

import numpy as np
import pytest
from typer.testing import CliRunner

from medfl.cli import app
from medfl.data.scratch_folder import UNOWNED, making
from medfl.data.store_file import Damaged, read_store
from medfl.data.store_pieces import write_store


def command(*words, code=0):
    done = CliRunner().invoke(app.app, ["cache", *map(str, words)])
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache with two stores, one of version 0.1 and some tissue."""
    monkeypatch.setenv("MEDFL_CACHE", str(tmp_path))
    for name in ("one", "two"):
        write_store(tmp_path / "stores" / name, 8, "here", 5, lambda *_: iter([np.ones((5, 8, 8, 3), np.uint8)]), {})
    old = tmp_path / "stores" / "three"
    old.mkdir()
    (old / "store.json").write_text(json.dumps({"version": 1, "shape": [5, 8, 8, 3], "bad": {}}))
    (tmp_path / "tissue-abc").mkdir()
    return tmp_path


def test_ls_says_what_is_there(cache):
    text = command("ls")
    for word in ("stores/one", "5 patches of 8 pixels", "of an earlier version", "tissue-abc", "4 folders"):
        assert word in text


def test_verify_names_damaged_stores_and_removes_them(cache):
    assert "2 stores, all as they were written" in command("verify")
    file = cache / "stores" / "two" / "images.npy"
    status, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(Damaged):
        read_store(file.parent)
    text = command("verify", cache, code=1)
    assert "Damaged: stores/two" in text
    assert "1 of 2 stores" in text
    assert sorted(path.name for path in (cache / "stores").iterdir()) == ["one", "three"]


def test_clean_removes_what_was_left_and_nothing_that_is_being_made(cache):
    for left in (cache / "stores" / ".x-1", cache / ".tissue-abc.12.part"):
        left.mkdir()
        (left / "half").write_bytes(bytes(500_000))
        for path in (left / "half", left):
            os.utime(path, (1, path.stat().st_mtime - UNOWNED - 60))
    with making(cache / "stores" / "new") as part:
        assert "left by a process that was killed" in command("ls")
        text = command("clean")
        assert part.is_dir()
    assert "Removed: stores/.x-1, 0.5 MB" in text
    assert "1.0 MB freed" in text
    assert "--outdated" in text
    command("clean", "--outdated")
    names = {path.name for path in cache.iterdir()}
    assert names == {"stores", "tissue-abc"}
    assert {path.name for path in (cache / "stores").iterdir()} == {"one", "two", "new"}


def test_all_of_a_cache_goes_where_somebody_says_yes(cache):
    (cache / "data.key").write_text("00")
    done = CliRunner().invoke(app.app, ["cache", "clean", "--all"])
    assert "nobody is there to ask, so nothing was removed" in str(done.exception)
    assert "All 4 folders in" in done.output
    assert (cache / "stores" / "one").is_dir()
    assert "data.key stays" in command("clean", "--all", "--yes")
    assert [path.name for path in cache.rglob("*") if path.is_file()] == ["data.key"]


def test_a_cache_that_is_not_there(tmp_path):
    done = CliRunner().invoke(app.app, ["cache", "ls", str(tmp_path / "none")])
    assert "there is no cache" in str(done.exception)
