"""Answers of people: a template of every question, answers for sites over their own files, and one sentence for each
mistake."""

import re

import pytest
import yaml

from medfl.errors import MedflError
from medfl.report.dossier.chai_card import CHAI_CARD
from medfl.report.dossier.claim import CLAIM
from medfl.report.dossier.dossier_answers import (
    QUESTIONS,
    SITE_QUESTIONS,
    DossierAnswers,
    answers_template,
    read_answers,
)
from medfl.report.dossier.tripod_ai import TRIPOD_AI
from medfl.report.run_results import read_evidence
from tests.paths import ROOT
from tests.report.dossier_run import OWNER, filed_run


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    return read_evidence(filed_run(tmp_path_factory.mktemp("answers") / "run"))


def test_every_question_is_asked_by_a_checklist_and_documented():
    sources = {source for made in (CHAI_CARD, TRIPOD_AI, CLAIM) for item in made.items for source in item.sources}
    assert {f"answer:{name}" for name in QUESTIONS} <= sources
    assert {f"about:{name}" for name in set(SITE_QUESTIONS) - {"contact", "licence"}} <= sources
    page = (ROOT / "docs" / "dossier.md").read_text(encoding="utf-8")
    documented = re.findall(
        r"^\| `(\w+)` \| (.+) \|$", page[page.index("## The file of answers") :], flags=re.MULTILINE
    )
    fields = DossierAnswers.model_fields.items()
    assert documented == [(name, field.description) for name, field in fields]


def test_the_template_asks_what_is_open_and_is_a_file_of_no_answers(evidence, tmp_path):
    text = answers_template(evidence)
    asked = yaml.safe_load(text)
    assert list(asked) == list(DossierAnswers.model_fields)
    assert set(asked["sites"]["north"]) == set(SITE_QUESTIONS) - {"owner", "scanner"}
    assert set(asked["sites"]["east"]) == set(SITE_QUESTIONS)
    assert all(f"# {question}" in text for question in QUESTIONS.values() if len(question) < 100)
    file = tmp_path / "answers.yaml"
    file.write_text(text)
    assert read_answers(evidence, file) == read_answers(evidence, None)


def test_an_answer_for_a_site_replaces_its_files_and_says_so(evidence, tmp_path):
    file = tmp_path / "answers.yaml"
    file.write_text("funding: None received\nsites: {north: {owner: Another}, east: {owner: East}}\n")
    answers = read_answers(evidence, file)
    assert answers.of_run["funding"] == "None received"
    assert answers.of_sites["north"]["owner"] == ("Another", "answers, in place of the site file")
    assert answers.of_sites["east"]["owner"] == ("East", "answers")
    assert answers.of_sites["south"]["owner"] == ("Clinic", "site file")
    assert answers.open_at("west") == len(SITE_QUESTIONS)
    assert read_answers(evidence, None).of_sites["north"]["owner"] == (OWNER, "site file")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fundin: x", r"`fundin` is not a key.*funding"),
        ("funding: in /srv/x", r"`funding`: .*'/srv/x' looks like a path"),
        ("sites: {nort: {owner: x}}", r"names nort, .* Did you mean \"north\""),
        ("sites: {north: {owner: /srv/x}}", r"`sites\.north\.owner`"),
        ("- x", "a answers file is a mapping|an answers file is a mapping"),
        ("regulatory: no", r"`regulatory`.*quotes"),
    ],
)
def test_a_wrong_answer_is_one_sentence(evidence, tmp_path, text, words):
    file = tmp_path / "answers.yaml"
    file.write_text(text)
    with pytest.raises(MedflError, match=words):
        read_answers(evidence, file)
