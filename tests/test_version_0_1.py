"""What version 0.1 left behind is read: a run, a stopped run, a model, a study's tables; a kit gets a sentence.

`tests/fixtures/version_0_1` was written by medfl 0.1.0 from a pipeline of generated tissue and a tiny network.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medfl.cli import app
from tests.paths import ROOT

MADE = ROOT / "tests" / "fixtures" / "version_0_1"


@pytest.fixture
def left(tmp_path) -> Path:
    """A copy that may be written to, its tissue where this machine keeps it."""
    folder = Path(shutil.copytree(MADE, tmp_path / "left"))
    for run in ("run", "stopped"):
        file = folder / run / "allocation.csv"
        file.write_bytes(file.read_bytes().replace(b"CACHE", os.environ["MEDFL_CACHE"].encode()))
    return folder


def command(*words: object) -> str:
    """What a command prints; it must succeed."""
    done = CliRunner().invoke(app.app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


def test_a_finished_run_is_measured_again_to_the_same_figures(left):
    command("evaluate", left / "run", "--json", left / "again.json")
    again = json.loads((left / "again.json").read_text())
    summary = json.loads((left / "run" / "summary.json").read_text())
    for name, figures in again["sites"].items():
        assert figures["auroc"] == pytest.approx(summary["sites"][name]["auroc"], abs=1e-6)
        assert figures["ece"] == pytest.approx(summary["sites"][name]["ece"], abs=1e-4)


def test_its_report_is_drawn(left):
    command("report", left / "run")
    page = (left / "run" / "report.html").read_text()
    assert "held-out-01" in page


def test_a_stopped_run_goes_on_where_it_stopped(left):
    whole = [json.loads(line) for line in (left / "run" / "rounds.jsonl").read_text().splitlines()]
    with (left / "stopped" / "pipeline.yaml").open("a") as stream:  # its sites are of too few patients to tell figures
        stream.write("disclosure: {min_count: 1}\n")
    command("resume", left / "stopped")
    rounds = (left / "stopped" / "rounds.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in rounds[:2]] == whole[:2]
    assert len(rounds) == len(whole)
    for ours, theirs in zip(rounds[2:], whole[2:], strict=True):
        for name, site in json.loads(ours)["sites"].items():
            if "val" in site:
                assert site["val"]["nll"] == pytest.approx(theirs["sites"][name]["val"]["nll"], rel=1e-3)


def test_a_studys_tables_are_read(left):
    (left / "pipeline.yaml").write_bytes((left / "run" / "pipeline.yaml").read_bytes())
    command("report", left / "study", "--out", left / "study.html")
    assert "local_only" in (left / "study.html").read_text()


def test_a_kit_is_refused_with_what_to_do(left):
    done = CliRunner().invoke(app.app, ["deploy", "join", str(left / "kit")])
    assert done.exit_code != 0
    assert "made by another version" in str(done.exception)
    assert "medfl deploy kit" in str(done.exception)
