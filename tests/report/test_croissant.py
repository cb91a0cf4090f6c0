"""Data sheets: Croissant with the counts that may be told and every question about the data."""

import json

import pytest

from medfl.report.dossier.croissant import CONFORMS, data_sheet
from medfl.report.dossier.dossier_answers import SITE_QUESTIONS, read_answers
from medfl.report.dossier.site_counts import site_counts
from medfl.report.run_results import read_evidence
from tests.report.dossier_run import OWNER, SCANNER, filed_run


@pytest.fixture(scope="module")
def sheets(tmp_path_factory):
    """Site -> its sheet as text."""
    evidence = read_evidence(filed_run(tmp_path_factory.mktemp("croissant") / "run"))
    counts, answers = site_counts(evidence), read_answers(evidence, None)
    return {site: data_sheet(evidence, site, counts[site], answers) for site in evidence.roles}


def test_a_sheet_tells_counts_and_answers_and_what_is_not_answered(sheets):
    sheet = json.loads(sheets["north"])
    about, counts = sheet["recordSet"]
    assert sheet["conformsTo"] == CONFORMS
    assert sheet["creator"]["name"] == OWNER
    assert SCANNER in sheet["rai:dataCollection"]
    assert "license" not in sheet
    assert not sheet.get("distribution")
    answers = {row["about/key"]: row["about/answer"] for row in about["data"]}
    assert list(answers) == [*SITE_QUESTIONS, "mpp"]
    assert (answers["owner"], answers["licence"], answers["mpp"]) == (OWNER, "not answered", "not answered")
    row = {"counts/split": "train", "counts/class": "lung_aca", "counts/patches": 20, "counts/groups": 4}
    assert counts["data"][0] == row
    assert len(counts["data"]) == 9


def test_every_field_of_a_record_set_is_in_each_of_its_records(sheets):
    for text in sheets.values():
        for records in json.loads(text)["recordSet"]:
            fields = [field["@id"] for field in records["field"]]
            assert all(list(row) == fields for row in records["data"])
            assert all(field.startswith(f"{records['@id']}/") for field in fields)


@pytest.mark.slow
def test_mlcroissant_reads_every_sheet(sheets, tmp_path):
    croissant = pytest.importorskip(
        "mlcroissant", reason="not installed; `uv run --with mlcroissant pytest -m slow tests/report/test_croissant.py`"
    )
    for site, text in sheets.items():
        (tmp_path / f"{site}.json").write_text(text)
        dataset = croissant.Dataset(jsonld=str(tmp_path / f"{site}.json"))
        assert not dataset.metadata.ctx.issues.errors
        assert len(list(dataset.records("counts"))) == (9 if site in ("north", "south") else 3)
        assert len(list(dataset.records("about"))) == len(SITE_QUESTIONS) + 1
