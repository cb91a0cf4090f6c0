"""Purging a run: what names files, or holds keys, states and patches, is gone; what can be shown stays."""

import json
import os

import pytest
import yaml
from typer.testing import CliRunner

from medfl.cli import app
from medfl.engines.nvflare.run_layout import laid_before
from medfl.errors import MedflError
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.patch_gallery import with_patches
from medfl.pipeline.run import resume
from medfl.report.run_report import write_report
from medfl.report.run_results import read_evidence
from medfl.runs.data_record import keep_key
from medfl.runs.purge import private_parts
from tests.runfolders import FakeRun

SECRET = "ward-7"  # stands in paths, names of files and states
GONE = ["allocation.csv", "checkpoint", "data.key", "report-with-patches.html"]


@pytest.fixture
def run(tmp_path):
    folder = FakeRun(tmp_path / "run", root=f"/srv/{SECRET}").whole().folder
    (folder / "allocation.csv").write_text(f"site,split,class,group,file\nnorth,test,lung_n,p1,{SECRET}/1.png\n")
    keep_key(folder, bytes(32))
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "north.safetensors").write_text(SECRET)
    (folder / "report-with-patches.html").write_text(SECRET)
    return folder


def command(*words, code=0):
    done = CliRunner().invoke(app.app, ["purge", *map(str, words)])
    assert done.exit_code == code, done.output
    return " ".join(done.output.split()), done.exception


def test_what_names_files_goes_and_the_report_the_figures_and_the_model_stay(run):
    text, _ = command(run, "--yes")
    assert f"go: {', '.join(GONE)}, the paths in pipeline.yaml" in text
    assert "cannot be resumed" in text
    assert "the model can be evaluated" in text
    assert not any((run / name).exists() for name in GONE)
    left = "".join(
        path.read_text(errors="ignore") for path in run.rglob("*") if path.is_file() and path.suffix != ".html"
    )
    assert f"/srv/{SECRET}" not in left
    assert write_report(run).is_file()
    assert load_pipeline(run / "pipeline.yaml").name == "fake"  # what evaluate and register read
    assert command(run, "--yes")  # again is no error


def test_what_cannot_be_done_afterwards_is_one_sentence(run):
    command(run, "--yes")
    for act in (lambda: resume(run), lambda: laid_before(run), lambda: with_patches(read_evidence(run))):
        with pytest.raises(MedflError, match="was purged: what names its files and holds its state is gone, so"):
            act()


def test_nothing_goes_where_nobody_says_yes(run):
    before = sorted(path.name for path in run.iterdir())
    assert "nobody is there to ask, so nothing was removed" in str(command(run, code=1)[1])
    assert "allocation.csv" in command(run, "--list")[0]
    assert sorted(path.name for path in run.iterdir()) == before


def test_parties_of_a_run_in_processes_keep_their_audit_logs_only(run):
    site = run / "engine" / "north"
    (site / "state").mkdir(parents=True)
    (site / "state" / "x.safetensors").write_text(SECRET)
    for name in ("allocation.csv", "audit.jsonl", "audit.end", "data.key"):
        (site / name).write_text("")
    (run / "engine" / "engine.json").write_text("{}")
    (run / "engine" / "north.log").write_text(SECRET)
    command(run, "--yes")
    rest = {path.relative_to(run / "engine").as_posix() for path in (run / "engine").rglob("*") if path.is_file()}
    assert rest == {"engine.json", "north/audit.jsonl", "north/audit.end"}


def test_a_link_goes_and_what_it_names_stays(run, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("")
    (run / "engine").symlink_to(elsewhere)
    os.replace(run / "checkpoint", tmp_path / "moved")
    (run / "checkpoint").symlink_to(elsewhere)
    assert run / "checkpoint" in private_parts(run)
    command(run, "--yes")
    assert (elsewhere / "kept").is_file()


def test_a_purged_pipeline_keeps_what_is_no_path(run):
    raw = yaml.safe_load((run / "pipeline.yaml").read_text())
    raw["data"]["distinct_names"] = ["Jane Doe"]
    raw["tracking"]["uri"] = "https://user:word@tracking.org"
    (run / "pipeline.yaml").write_text(yaml.safe_dump(raw))
    command(run, "--yes")
    now = yaml.safe_load((run / "pipeline.yaml").read_text())
    assert (now["task"], now["training"], now["seed"]) == (raw["task"], raw["training"], raw["seed"])
    assert (now["data"]["root"], "cache" in now["data"]) == ("<local>", False)
    assert "word" not in json.dumps(now)
    assert "Jane" not in json.dumps(now)
