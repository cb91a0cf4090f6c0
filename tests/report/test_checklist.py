"""Checklists: their items, JSON pointers that resolve, and what is not answered."""

import csv
import dataclasses
import io
import json

import pytest

from medfl.data.table_cells import natural
from medfl.report.dossier.chai_card import CHAI_CARD
from medfl.report.dossier.checklist import (
    Checklist,
    ChecklistItem,
    Material,
    answered,
    in_groups,
    in_words,
    resolve,
    table_text,
)
from medfl.report.dossier.claim import CLAIM
from medfl.report.dossier.dossier_answers import QUESTIONS, SITE_QUESTIONS, Answers
from medfl.report.dossier.dossier_facts import dossier_facts
from medfl.report.dossier.site_counts import site_counts
from medfl.report.dossier.tripod_ai import TRIPOD_AI
from medfl.report.run_results import read_evidence
from tests.report.dossier_run import filed_run

SUMMARY = {"a": {"x/y": 1.0, "~": [0.5, 0.25]}, "n": 3, "none": None, "empty": {}, "no": False}


def item(*sources, said=None, sites=None):
    """The one item of these sources, answered."""
    of_sites = {name: {"owner": answer} for name, answer in (sites or {}).items()}
    material = Material(SUMMARY, {}, {"fact": "A sentence.", "nothing": ""}, Answers(said or {}, of_sites))
    return answered(Checklist("k", "t", "c", (ChecklistItem("1", "s", "topic", sources),)), material)[0]


def test_the_checklists_have_the_items_that_were_published():
    parts = {}
    for entry in TRIPOD_AI.items:
        parts.setdefault(int(entry.number.rstrip("abcdefg")), []).append(entry.number)
    assert list(parts) == list(range(1, 28))
    assert len(TRIPOD_AI.items) == 52
    assert [entry.number for entry in CLAIM.items] == [str(number) for number in range(1, 45)]
    assert all(entry.sources for made in (TRIPOD_AI, CLAIM, CHAI_CARD) for entry in made.items)


def test_every_source_is_one_that_there_is(tmp_path):
    evidence = read_evidence(filed_run(tmp_path / "run"))
    facts = dossier_facts(evidence, site_counts(evidence))
    names = {"answer": QUESTIONS, "about": SITE_QUESTIONS, "fact": facts}
    for made in (TRIPOD_AI, CLAIM, CHAI_CARD):
        for entry in made.items:
            for source in entry.sources:
                kind, _, name = source.partition(":")
                assert name.startswith("/") if kind in ("summary", "pipeline") else name in names[kind], source


def test_a_run_that_ended_early_says_how_many_rounds_it_played(tmp_path):
    evidence = read_evidence(filed_run(tmp_path / "run"))
    rounds = evidence.summary["rounds"]
    early = dataclasses.replace(evidence, summary=evidence.summary | {"stopped": {"round": 1}})
    said = [" ".join(dossier_facts(each, site_counts(each)).values()) for each in (evidence, early)]
    assert f": {rounds} rounds of" in said[0]
    assert f": 1 of {rounds} rounds of" in said[1]


def test_pointers_are_those_of_json():
    assert list(resolve(SUMMARY, "/a/x~1y")) == [("/a/x~1y", 1.0)]
    assert list(resolve(SUMMARY, "/a/*")) == [("/a/x~1y", 1.0), ("/a/~0", [0.5, 0.25])]
    assert list(resolve(SUMMARY, "/no")) == [("/no", False)]
    for pointer in ("/none", "/empty", "/other", "/n/x"):
        assert not list(resolve(SUMMARY, pointer))


@pytest.mark.parametrize(
    ("entry", "status", "shown"),
    [
        (item("summary:/n"), "answered", [("summary.json /n", "3")]),
        (item("summary:/other"), "not answered", [("", None)]),
        (item("fact:nothing"), "not answered", [("", None)]),
        (
            item("fact:fact", "answer:q", said={"q": None}),
            "in part",
            [("medfl fact", "A sentence."), ("answers q", None)],
        ),
        (item("answer:q", said={"q": "x"}), "answered", [("answers q", "x")]),
        (
            item("about:owner", sites={"n": ("N", "site file"), "e": None}),
            "in part",
            [("site file n about.owner", "N"), ("site file about.owner of e", None)],
        ),
        (item("about:owner", sites={"n": None}), "not answered", [("site file about.owner of all sites", None)]),
        (item("summary:/a/*"), "answered", [("summary.json /a/*", "x/y: 1.000; ~: [0.500, 0.250]")]),
    ],
)
def test_an_item_is_answered_when_everybody_it_asks_has_answered(entry, status, shown):
    assert (entry.status, in_groups(entry.lines)) == (status, shown)


def test_the_table_holds_values_as_json_and_no_formula():
    text = table_text([item("summary:/a/~0", "answer:q", said={"q": "=1+1"})])
    rows = list(csv.DictReader(io.StringIO(text)))
    assert json.loads(rows[0]["value"]) == [0.5, 0.25]
    assert rows[1]["value"].startswith("'=")
    assert natural(rows[1]["value"]) == "=1+1"


def test_values_in_words():
    assert in_words({"a": True, "b": [1, "x"], "c": None}) == "a yes; b 1, x; c n/a"
