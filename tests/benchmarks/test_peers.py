"""Programs of other frameworks: counted, started where they are installed, left out where not."""

import ast
import csv

import pytest

from benchmarks import peers


@pytest.mark.parametrize("name", peers.PEERS)
def test_programs_are_sound_and_their_lines_counted(name):
    for text in peers.PEERS[name].files.values():
        ast.parse(text)
    assert 15 < peers.PEERS[name].lines < 100


def test_what_is_not_installed_is_left_out_with_a_reason(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(peers, "OUT", tmp_path / "peers.csv")
    monkeypatch.setattr(peers, "PEERS", {"other": peers.Peer(("no_such_package",), {"main.py": "raise SystemExit(1)"})})
    monkeypatch.setattr(peers.Quietness, "look", lambda self: self.walls.append(1.0))
    assert peers.main([]) == 0
    assert "other: left out, since no_such_package is not installed here" in capsys.readouterr().out
    assert not peers.OUT.exists()


def test_each_turn_is_a_row_and_one_that_fails_is_missing(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(peers, "OUT", tmp_path / "peers.csv")
    works, fails = peers.Peer(("psutil",), {"main.py": "x = 1\n"}), peers.Peer(("numpy",), {"main.py": "1 / 0"})
    monkeypatch.setattr(peers, "PEERS", {"works": works, "fails": fails})
    monkeypatch.setattr(peers, "BETWEEN", 0.01)
    monkeypatch.setattr(peers, "TURNS", 2)
    monkeypatch.setattr(peers.Quietness, "look", lambda self: self.walls.append(1.0) or setattr(self, "floor", 1.0))
    assert peers.main([]) == 1
    rows = list(csv.DictReader(peers.OUT.open()))
    assert [(row["framework"], row["turn"], row["lines"]) for row in rows] == [("works", "0", "1"), ("works", "1", "1")]
    assert "fails: failed" in capsys.readouterr().out
    monkeypatch.setattr(peers, "PEERS", {"works": works, "third": works})
    assert peers.main(["third"]) == 0  # the others' rows stay
    assert [row["framework"] for row in peers.read()] == ["works", "works", "third", "third"]
    assert peers.main(["forth"]) == 2


def test_a_program_is_timed_and_one_that_fails_says_why(monkeypatch):
    monkeypatch.setattr(peers, "BETWEEN", 0.01)
    seconds, most = peers.play(peers.Peer((), {"main.py": "import time; time.sleep(0.1)"}), 2)
    assert seconds > 0.1
    assert most > 1
    with pytest.raises(RuntimeError, match="no rounds: 3"):
        peers.play(peers.Peer((), {"main.py": "import sys; sys.exit('no rounds: ' + sys.argv[1])"}), 3)
