"""`medfl init pipeline`: a file that runs, from site files, by flags or by questions."""

import sys

import pytest
import yaml

from medfl.cli import app
from medfl.cli.terminal import Terminal
from medfl.errors import MedflError
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.propose_pipeline import Wishes, propose, site_files
from tests.datafiles import own_folder


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with two site files and a pipeline, as the working directory."""
    monkeypatch.chdir(tmp_path)
    for name, words, labels in (
        ("north", {"adeno": 0, "normal": 1}, {"adeno": "cancer", "normal": "normal"}),
        ("valley", {"ACA": 0, "N": 1, "X": 2}, {"ACA": "cancer", "N": "normal", "X": None}),
    ):
        own_folder(tmp_path / "data" / name, words, seed=len(name))
        site = {"name": name, "labels": labels, "data": {"source": "folder", "root": f"data/{name}"}}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(site))
    (tmp_path / "other.yaml").write_text("name: no-site\ntask: {}\n")
    return tmp_path


def call(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["medfl", *arguments])
    code = 0
    try:
        app.main()
    except SystemExit as done:
        code = done.code or 0
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_file_runs_dry_as_it_is(place, monkeypatch, capsys):
    code, out, error = call(
        monkeypatch, capsys, "init", "pipeline", "--train", "north.yaml", "--held-out", "valley.yaml", "--name",
        "two-hospitals", "--malignant", "cancer", "--rounds", "4", "--out", "files/two.yaml",
    )  # fmt: skip
    assert code == 2
    assert "cannot be written" in error
    (place / "files").mkdir()
    code, out, error = call(
        monkeypatch, capsys, "init", "pipeline", "--train", "north.yaml", "--held-out", "valley.yaml", "--name",
        "two-hospitals", "--malignant", "cancer", "--rounds", "4", "--out", "files/two.yaml",
    )  # fmt: skip
    assert code == 0, error
    assert "Classes: cancer, normal." in out
    made = load_pipeline("files/two.yaml")
    assert (made.name, made.task.malignant, made.data.size, made.training.rounds) == (
        "two-hospitals",
        ["cancer"],
        32,
        4,
    )
    assert [site.name for site in made.all_sites] == ["north", "valley"]
    code, out, error = call(
        monkeypatch, capsys, "run", "files/two.yaml", "--dry-run", "--set", "model={backbone: test_resnet}",
        "--set", f"data.cache={place / 'cache'}",
    )  # fmt: skip
    assert code == 0, error
    assert "24 patches dropped by `labels` (X 24)" in out
    assert "exists already" in call(monkeypatch, capsys, "init", "pipeline", "--out", "files/two.yaml")[2]


def test_it_asks_on_a_terminal(place, monkeypatch, capsys):
    answers = iter(["north.yaml", "", "asked", "", "7"])
    seen = []
    monkeypatch.setattr(Terminal, "asks", True)
    monkeypatch.setattr(Terminal, "ask", lambda _, *words: seen.append(words) or next(answers) or words[1])
    code, _, error = call(monkeypatch, capsys, "init", "pipeline")
    assert code == 0, error
    assert seen[0] == ("Site files that train", "north.yaml valley.yaml")
    made = load_pipeline("asked.yaml")
    assert (made.training.rounds, [site.role for site in made.all_sites]) == (7, ["train", "held_out"])


def test_without_a_terminal_it_says_what_is_missing(place, monkeypatch, capsys):
    assert "--train SITE.yaml" in call(monkeypatch, capsys, "init", "pipeline")[2]


def test_classes_that_differ_between_sites_are_told(place):
    assert [path.name for path in site_files(place)] == ["north.yaml", "valley.yaml"]
    (place / "east.yaml").write_text("name: east\nlabels: {T: tumour}\ndata: {source: folder, root: data/east}\n")
    wishes = Wishes("x", [place / "north.yaml", place / "east.yaml"], [])
    text, notes = propose(wishes, place / "x.yaml")
    assert any("Site east has no cancer, normal" in note for note in notes)
    assert any("No site is held out" in note for note in notes)
    assert yaml.safe_load(text)["task"]["classes"] == ["cancer", "normal", "tumour"]
    (place / "bare.yaml").write_text("name: bare\n")
    with pytest.raises(MedflError, match="has no `data`"):
        propose(Wishes("x", [place / "bare.yaml"], []), place / "x.yaml")
