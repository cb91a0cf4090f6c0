"""The dossier's folder: the run's own values, what is open in red and counted, nothing of a machine, nothing lost."""

import csv
import hashlib
import json
import re

import pytest
import yaml

from medfl.errors import MedflError
from medfl.report.dossier.checklist import resolve
from medfl.report.dossier.write_dossier import write_dossier, write_template
from medfl.runs.digests import sealed
from medfl.tracking.model_card import model_card
from tests.pages import Page
from tests.report.dossier_run import OWNER, SECRET, filed_run
from tests.runfolders import FakeRun


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(run folder, dossier, its files as text) with two answers."""
    base = tmp_path_factory.mktemp("dossier")
    folder = filed_run(base / "run")
    (base / "answers.yaml").write_text("intended_use: Triage of <b>slides</b>\nfunding: '=None'\n")
    dossier = write_dossier(folder, model_card, answers=base / "answers.yaml")
    files = {p.relative_to(dossier.folder).as_posix(): p.read_text() for p in dossier.folder.rglob("*") if p.is_file()}
    return folder, dossier, files


@pytest.fixture
def fresh(tmp_path):
    return filed_run(tmp_path / "run")


def rows(text):
    return list(csv.DictReader(text.splitlines()))


def test_the_folder_holds_what_is_filed_and_its_sums(made):
    folder, dossier, files = made
    sheets = {f"croissant/{site}.json" for site in ("north", "south", "east", "west")}
    tables = {"index.html", "model_card.md", "tripod_ai.csv", "claim.csv", "summary.json", "SHA256SUMS"}
    assert dossier.folder == folder / "dossier"
    assert set(files) == tables | sheets
    sums = dict(reversed(line.split("  ")) for line in files["SHA256SUMS"].splitlines())
    assert sums == {n: hashlib.sha256(t.encode()).hexdigest() for n, t in files.items() if n != "SHA256SUMS"}


def test_every_pointer_leads_to_its_value(made):
    _, _, files = made
    summary = json.loads(files["summary.json"])
    pointed = [row for name in ("tripod_ai.csv", "claim.csv") for row in rows(files[name])]
    pointed = [row for row in pointed if row["source"] == "summary.json"]
    assert len(pointed) > 50
    for row in pointed:
        [(_, value)] = resolve(summary, row["pointer"])
        assert row["value"] == (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def test_what_nobody_answered_is_red_and_counted_first(made):
    _, dossier, files = made
    page = Page(files["index.html"])
    for title, name in (("TRIPOD+AI", "tripod_ai.csv"), ("CLAIM 2024", "claim.csv")):
        status = {row["item"]: row["status"] for row in rows(files[name])}
        missing = sum(word == "not answered" for word in status.values())
        assert dossier.open_items[title] == (missing, len(status))
        assert f"{missing} of {len(status)}" in page.texts["overview"]
    missing, whole = dossier.open_questions
    assert whole - missing == 2 + 3  # two answers, and three that sites' files give
    assert f'<strong class="unanswered">{missing} of {whole}</strong>' in files["index.html"]
    assert ".unanswered { font-weight: 650; color: var(--alarm); }" in files["index.html"]
    assert page.rows("use")["Who is to use it, and what they must know."][0].startswith("not answered")
    assert list(page.texts)[1] == "overview"
    assert "**not answered** (answers developer)" in files["model_card.md"]


def test_answers_stand_where_they_are_asked_for(made):
    _, _, files = made
    claim = {row["item"]: row for row in rows(files["claim.csv"])}
    assert (claim["44"]["status"], claim["44"]["value"]) == ("answered", "'=None")
    assert (claim["18"]["status"], claim["18"]["value"]) == ("not answered", "not answered")
    assert "Triage of &lt;b&gt;slides" in files["index.html"]
    assert "<b>slides" not in files["index.html"] + files["model_card.md"]
    assert OWNER in files["index.html"]
    assert "## Known" not in files["model_card.md"]
    assert files["model_card.md"].count("\n# ") == 0  # the run's own card is a level down


def test_no_path_and_no_file_of_a_patient_is_in_it(made):
    _, _, files = made
    for name, text in files.items():
        assert SECRET not in text, name
        assert "doe-jane" not in text, name
        assert "/srv" not in text, name
    page = Page(files["index.html"])
    assert not page.values("src", "srcset", "poster")
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "img", "iframe"})


def test_the_same_run_and_answers_give_the_same_bytes_and_replace_an_earlier_dossier(fresh, tmp_path):
    first = write_dossier(fresh, model_card).folder
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    (first / "croissant" / "notes.json").write_text("a person's own")
    write_dossier(fresh, model_card)
    assert {path: path.read_bytes() for path in before} == before
    assert (first / "croissant" / "notes.json").read_text() == "a person's own"
    elsewhere = write_dossier(fresh, model_card, tmp_path / "filed").folder
    assert (elsewhere / "SHA256SUMS").read_bytes() == (first / "SHA256SUMS").read_bytes()


def test_what_somebody_changed_is_not_written_over(fresh, tmp_path):
    folder = write_dossier(fresh, model_card).folder
    (folder / "claim.csv").write_text("filled in by hand")
    with pytest.raises(MedflError, match=r"changed since it was written \(claim\.csv\); move it away"):
        write_dossier(fresh, model_card)
    assert (folder / "claim.csv").read_text() == "filled in by hand"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(MedflError, match="holds no dossier; name another folder with --out"):
        write_dossier(fresh, model_card, tmp_path / "mine")
    (tmp_path / "file").write_text("x")
    with pytest.raises(MedflError, match="--out"):
        write_dossier(fresh, model_card, tmp_path / "file")


def test_a_run_whose_files_do_not_agree_is_refused(fresh):
    with (fresh / "allocation_summary.csv").open("a") as stream:
        stream.write("north,train,val,lung_n,9,9,d\n")
    with pytest.raises(MedflError, match=r"holds allocation_summary\.csv as the run did not write it"):
        write_dossier(fresh, model_card)
    assert not (fresh / "dossier").exists()


def test_a_name_of_a_site_that_leads_elsewhere_and_a_path_about_it_are_refused(fresh):
    pipeline = yaml.safe_load((fresh / "pipeline.yaml").read_text())
    pipeline["sites"]["train"][0]["about"]["owner"] = "in /srv/x"
    (fresh / "pipeline.yaml").write_text(yaml.safe_dump(pipeline))
    with pytest.raises(MedflError, match=r"pipeline\.yaml: `about\.owner` of the site north: .*path"):
        write_dossier(fresh, model_card)
    pipeline["sites"]["train"][0] |= {"name": "../../north", "about": None}
    (fresh / "pipeline.yaml").write_text(yaml.safe_dump(pipeline))
    with pytest.raises(MedflError, match="no name of a site"):
        write_dossier(fresh, model_card)


def test_a_run_of_before_there_were_digests_says_so(fresh):
    summary = json.loads((fresh / "summary.json").read_text())
    del summary["digests"]
    (fresh / "summary.json").write_text(json.dumps(summary))
    page = (write_dossier(fresh, model_card).folder / "index.html").read_text()
    assert "This run is of before version 0.2" in page
    # summary.json, weights, model.json, rounds.jsonl, allocation_summary.csv
    assert page.count("says nothing of itself") == 5


def test_a_template_is_not_written_over_answers(fresh, tmp_path):
    write_template(fresh, tmp_path / "answers.yaml")
    assert re.search(r"^intended_use: null$", (tmp_path / "answers.yaml").read_text(), re.MULTILINE)
    with pytest.raises(MedflError, match="may hold answers"):
        write_template(fresh, tmp_path / "answers.yaml")


def test_figures_by_subgroup_stand_in_card_checklist_and_page_and_small_ones_nowhere(fresh):
    summary = json.loads((fresh / "summary.json").read_text())
    own = {**FakeRun(fresh).measured("east", 1, "test", 50)}
    summary["sites"]["east"]["subgroups"] = {"sex": {"values": {"female": own, "male": own}, "withheld": 1}}
    (fresh / "summary.json").write_text(json.dumps(sealed(summary, fresh)))
    folder = write_dossier(fresh, model_card).folder
    low, high = own["auroc_ci"]
    shown = f"female, east (held-out): {own['auroc']:.3f} [{low:.3f}, {high:.3f}]"
    texts = {name: (folder / name).read_text() for name in ("model_card.md", "tripod_ai.csv", "index.html")}
    item = next(row for row in rows(texts["tripod_ai.csv"]) if row["item"] == "23a" and row["source"] == "medfl")
    assert shown in item["value"]
    assert "few patients are withheld at east" in item["value"]
    assert "By sex, AUROC" in texts["model_card.md"]
    assert "By sex" in texts["index.html"].split("Fairness")[0]  # a table of its own
    assert item["status"] == "in part"  # nobody has said what it means
