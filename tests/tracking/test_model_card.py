"""The model card: no name and no description adds a line, a cell, a heading or a link to it."""

import re

import pytest
import yaml

from medfl.runs.records import read_json, read_run
from medfl.tracking.model_card import model_card
from medfl.tracking.run_metadata import note
from tests import runfolders
from tests.odd_names import hidden, odd_names
from tests.runfolders import FakeRun


def card_of(folder, classes, sites, description, monkeypatch):
    """The card of a hand-made run with these names."""
    monkeypatch.setattr(runfolders, "CLASSES", classes)
    run = FakeRun(folder, train=sites[:2], held_out=sites[2:], failing=[(1, sites[0], "lost")])
    run.pipeline = lambda: FakeRun.pipeline(run) | {"description": description, "name": sites[3]}
    records = read_run(run.whole().folder)
    records.summary["sites"][sites[0]]["few_groups"] = True
    return model_card(records.summary, read_json(folder / "model.json"), records.pipeline, records.data), note(records)


def structure(card):
    """Headings, number of lines, cells of every row."""
    lines = card.split("\n")
    rows = [len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")]
    return [line for line in lines[1:] if line.startswith("#")], len(lines), rows


@pytest.mark.parametrize("seed", [0, 1])
def test_odd_names_leave_the_card_as_it_is(tmp_path, monkeypatch, seed):
    def writable(name):
        return name.isprintable() or not re.search("[\ud800-\udfff\ufffe\uffff\x00\r\x85\u2028\u2029]", name)

    names = [
        name for name in odd_names(60, seed) if writable(name) and yaml.safe_load(yaml.safe_dump([name])) == [name]
    ]
    classes, sites = tuple(names[seed * 12 :][:12]), names[seed * 12 + 12 :][:4]
    plain, _ = card_of(tmp_path / "plain", tuple("ABCDEFGHIJKL"), ["n", "s", "e", "w"], "x", monkeypatch)
    card, told = card_of(tmp_path / "odd", classes, sites, names[-1].replace("\n", " ") or "x", monkeypatch)
    assert structure(card) == structure(plain)
    assert not hidden(card + told)
    assert not re.search(r"<\w|(?<!\\)\]\(|\w://\w", card.replace("https://doi.org", ""))


def test_a_description_is_paragraphs(tmp_path, monkeypatch):
    text = "One line.\n## Intended use\n- Diagnosis <b>of patients\n| a | b |"
    card, told = card_of(tmp_path / "r", ("a", "b"), ["n", "s", "e", "w"], text, monkeypatch)
    for shown in (card, told):
        assert "\nOne line.\n" in shown
        assert "\n\\## Intended use\n" in shown
        assert "\n\\- Diagnosis &lt;b&gt;" in shown
    assert card.count("\n## Intended use") == 1


def test_what_the_model_misses_comes_before_any_mean(tmp_path):
    run = FakeRun(tmp_path / "r", skill=0.5).whole()
    records = read_run(run.folder)
    card = model_card(records.summary, read_json(run.folder / "model.json"), records.pipeline)
    result = card.index("## Result")
    assert result < card.index("AUROC") < card.index("## Data")
    assert re.search(r"\*\*At (east|west) the model takes \d+ of \d+ lung\\?_\w+ for another class", card[result:])
    assert "- Gates: none stated" in card


def test_the_card_says_which_transforms_go_along_and_which_do_not(tmp_path):
    run = FakeRun(tmp_path / "r")
    pipeline = FakeRun.pipeline(run)
    pipeline["sites"]["held_out"][0]["render"] = ["Flipd"]
    run.pipeline = lambda: pipeline
    records = read_run(run.whole().folder)
    facts = read_json(records.folder / "model.json")
    card = model_card(records.summary, facts | {"render": ["Flipd", {"GaussNoise": {}}]}, records.pipeline)
    assert "Patches go through Flipd, GaussNoise first (`data.render`), here and wherever the model is used." in card
    name = pipeline["sites"]["held_out"][0]["name"]
    assert f"- Sites that transform their own patches, which is not done where the model is used: {name}." in card
    assert "`data.render`" not in model_card(records.summary, facts, records.pipeline)
