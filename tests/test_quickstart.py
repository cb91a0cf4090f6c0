"""The README's first command, as a newcomer runs it: generated tissue to a registered model."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """(working directory, standard output) of the README's command, run from a folder of its own."""
    readme = (ROOT / "README.md").read_text()
    assert "pip install uv && uv run medfl run pipelines/quickstart.yaml" in readme
    place = tmp_path_factory.mktemp("quickstart")
    start = ["uv", "run", "--project", str(ROOT)] if shutil.which("uv") else [sys.executable, "-m"]
    command = [*start, "medfl", "run", str(ROOT / "pipelines" / "quickstart.yaml")]
    done = subprocess.run(
        command, cwd=place, env=os.environ | {"COLUMNS": "150"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return place, done.stdout


def test_it_prints_the_table_and_where_to_go_next(quickstart):
    place, out = quickstart
    for site in ("lung-centre", "colon-clinic", "regional-hospital", "private-laboratory"):
        assert re.search(rf"{site} +(train|held-out) +\d+ \(\d+\)", out), out
    (run,) = (place / "runs").iterdir()
    assert f"runs/{run.name}" in out
    assert "models:/quickstart@champion" in out
    assert "Traceback" not in out


def test_it_learned_something_that_holds_elsewhere(quickstart):
    place, _ = quickstart
    (run,) = (place / "runs").iterdir()
    summary = json.loads((run / "summary.json").read_text())
    assert summary["method"] == "ecgr"
    assert summary["held_out"]["mean_auroc"] > 0.85
    assert not summary["failures"]


def test_mlflow_holds_what_the_summary_says(quickstart):
    from mlflow.tracking import MlflowClient

    place, _ = quickstart
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

    place, out = quickstart
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
