"""The README's first command, as a newcomer runs it: generated tissue to a registered model."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medfl.cli.app import app
from tests.paths import ROOT

pytestmark = pytest.mark.long


QUICKSTART = str(ROOT / "pipelines" / "quickstart.yaml")
SHORT = ["data.size=48", "data.tissue={tiles_per_class: 110, copies: 4, size: 48}", "training.rounds=5"]
SHORT += ["registry.gates={held_out_auroc_min: 0.5}"]
LEAST = {"short": 0.8, "whole": 0.85}


def as_a_newcomer(place: Path) -> str:
    """The README's command in a process of its own, in a folder; what it prints."""
    readme = (ROOT / "README.md").read_text()
    assert "pip install uv && uv run medfl run pipelines/quickstart.yaml" in readme
    start = ["uv", "run", "--project", str(ROOT)] if shutil.which("uv") else [sys.executable, "-m"]
    settings = os.environ | {"COLUMNS": "150"}
    command = [*start, "medfl", "run", QUICKSTART]
    done = subprocess.run(command, cwd=place, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def in_this_process(place: Path) -> str:
    """The command with small patches and few rounds; what it prints."""
    options = [word for setting in SHORT for word in ("--set", setting)]
    with contextlib.chdir(place):
        done = CliRunner().invoke(app, ["run", QUICKSTART, *options], env={"COLUMNS": "150"})
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module", params=["short", pytest.param("whole", marks=pytest.mark.slow)])
def quickstart(request, tmp_path_factory):
    """(working directory, standard output, least AUROC) of the README's command, run from a folder of its own."""
    place = tmp_path_factory.mktemp("quickstart")
    out = as_a_newcomer(place) if request.param == "whole" else in_this_process(place)
    return place, out, LEAST[request.param]


def test_it_prints_the_table_and_where_to_go_next(quickstart):
    place, out, _ = quickstart
    for site in ("lung-centre", "colon-clinic", "regional-hospital", "private-laboratory"):
        assert re.search(rf"{site} +(train|held-out) +\d+ \(\d+\)", out), out
    (run,) = (place / "runs").iterdir()
    assert f"runs/{run.name}" in out
    assert "models:/quickstart@champion" in out
    assert "Traceback" not in out


def test_it_learned_something_that_holds_elsewhere(quickstart):
    place, _, least = quickstart
    (run,) = (place / "runs").iterdir()
    summary = json.loads((run / "summary.json").read_text())
    assert summary["method"] == "ecgr"
    assert summary["held_out"]["mean_auroc"] > least
    assert not summary["failures"]


def test_mlflow_holds_what_the_summary_says(quickstart):
    from mlflow.tracking import MlflowClient

    place, _, _ = quickstart
    (run,) = (place / "runs").iterdir()
    summary = json.loads((run / "summary.json").read_text())
    client = MlflowClient(f"sqlite:///{place / 'mlflow.db'}")
    version = client.get_model_version_by_alias("quickstart", "champion")
    experiment = client.get_experiment_by_name("medfl")
    runs = client.search_runs([experiment.experiment_id])
    children = {r.data.tags["site"]: r for r in runs if "site" in r.data.tags}
    assert set(children) == set(summary["sites"])
    for site, entry in summary["sites"].items():
        if entry["auroc"] is not None:
            history = client.get_metric_history(children[site].info.run_id, "test/auroc")
            assert [(m.step, m.value) for m in history] == [(0, entry["auroc"])]
    parent = client.get_run(version.run_id)
    assert parent.data.metrics["held_out/mean_auroc"] == summary["held_out"]["mean_auroc"]
    rounds = client.get_metric_history(version.run_id, "curves/val_auroc")
    assert [m.step for m in rounds] == list(range(summary["rounds"] + 1))


def test_console_summary_report_and_mlflow_say_the_same(quickstart):
    from mlflow.tracking import MlflowClient

    from medfl.metrics import format_interval

    place, out, _ = quickstart
    (run,) = (place / "runs").iterdir()
    summary = json.loads((run / "summary.json").read_text())
    client = MlflowClient(f"sqlite:///{place / 'mlflow.db'}")
    federation = client.get_model_version_by_alias("quickstart", "champion").run_id
    page = (run / "report.html").read_text()
    assert Path(client.download_artifacts(federation, "report.html")).read_text() == page
    text = re.sub(r"<[^>]+>", " ", page)
    for site, entry in summary["sites"].items():
        auroc = format_interval(entry["auroc"], entry["auroc_ci"], few_groups=entry["few_groups"])
        assert auroc in out, site
        assert auroc in text, site
        before, after = f"{entry['ece_before']:.3f}", f"{entry['ece_after']:.3f}"
        assert re.search(rf"{site} .*{re.escape(auroc)}.* {before} -> {after}", out), site
        assert before in text
        assert after in text
        (child,) = client.search_runs(
            [client.get_run(federation).info.experiment_id], f"tags.site = '{site}' and tags.role = '{entry['role']}'"
        )
        logged = child.data.metrics
        assert (logged["test/ece_before"], logged["test/ece_after"]) == (entry["ece_before"], entry["ece_after"])
        assert [logged["test/auroc_low"], logged["test/auroc_high"]] == entry["auroc_ci"]
