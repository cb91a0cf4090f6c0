"""A run of version 0.1 is registered: its figures count once they are measured anew, and once however often asked."""

import json
import os
import shutil
import sys
import threading
import time

import pytest

from medfl.cli import app
from medfl.errors import GateFailed, MedflError
from medfl.pipeline.register_run import register_run
from medfl.runs.folder import RunFolder
from medfl.tracking.connect import client_for
from tests.paths import ROOT
from tests.runfolders import tracking

MADE = ROOT / "tests" / "fixtures" / "version_0_1" / "run"


@pytest.fixture
def client(monkeypatch):
    """MLflow, where models are logged without their files."""
    uri = tracking("registering").uri
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr("medfl.tracking.log_model.save_model", lambda run, settings, temporary, *ids: temporary)
    return client_for(uri)


@pytest.fixture
def run(tmp_path):
    """A run folder without digests."""
    folder = RunFolder(shutil.copytree(MADE, tmp_path / "run"))
    data = folder.allocation.read_bytes().replace(b"CACHE", os.environ["MEDFL_CACHE"].encode())
    folder.allocation.write_bytes(data)
    return folder


def gate(run: RunFolder, bound: float) -> None:
    text = run.pipeline.read_text()
    run.pipeline.write_text(f"{text}registry: {{name: x, gates: {{held_out_auroc_min: {bound}}}}}\n")


def test_figures_are_believed_with_digests_or_measured_anew(run, client):
    register_run(run.path, name="ungated")  # nothing depends on its figures
    with pytest.raises(MedflError, match=r"has no `digests`.*--remeasure"):
        register_run(run.path, name="old", alias="champion")
    summary = json.loads(run.summary.read_text())
    low = summary["sites"]["held-out-01"]["auroc_ci"][0]
    summary["sites"]["held-out-01"]["auroc_ci"] = [0.97, 1.0]
    run.summary.write_text(json.dumps(summary))
    gate(run, min(low + 0.05, 0.96))
    with pytest.raises(GateFailed, match="below the bound"):
        register_run(run.path, name="old", alias="champion", remeasure=True)
    shutil.copyfile(MADE / "pipeline.yaml", run.pipeline)
    assert "version 1" in register_run(run.path, name="old", alias="champion", remeasure=True)
    tags = client.get_model_version("old", "1").tags
    assert tags["medfl.remeasured"] == "true"
    assert json.loads(tags["held_out.sites"])["held-out-01"] == pytest.approx(
        json.loads((MADE / "summary.json").read_text())["sites"]["held-out-01"]["auroc"], abs=1e-6
    )


def test_a_model_registered_without_gates_says_so_and_gates_can_be_given(run, client, tmp_path):
    run.save_summary(json.loads(run.summary.read_text()))
    ece, low = (json.loads(run.summary.read_text())["held_out"]["mean_ece"], "held_out_auroc_min=0.0")
    line = register_run(run.path, name="bare", alias="champion")
    assert "(version 1); no gates stated, so nothing was asked of its figures" in line
    version = client.get_model_version("bare", "1")
    assert version.tags["medfl.gates"] == "{}"
    assert "- Gates: none stated" in version.description
    with pytest.raises(GateFailed, match=r"held_out_ece_max: the mean ECE of the held-out sites is .*, above"):
        register_run(run.path, name="bare", alias="champion", gates=[f"held_out_ece_max={ece / 2}"])
    assert client.get_model_version("bare", "1").tags["medfl.gates"] == "{}"
    line = register_run(run.path, name="bare", alias="champion", gates=[low, f"held_out_ece_max={ece * 2}"])
    assert line.endswith(f"(version 1); gates passed: held_out_auroc_min 0, held_out_ece_max {ece * 2:g}")
    assert register_run(run.path, name="bare") == line.replace("@champion", "/1")  # what it passed stays said
    version = client.get_model_version("bare", "1")
    assert json.loads(version.tags["medfl.gates"]) == {"held_out_auroc_min": 0.0, "held_out_ece_max": ece * 2}
    assert "figures had to pass: held_out_auroc_min 0, held" in version.description


def test_gates_of_the_command_line_loosen_none_of_the_pipeline(run, client, monkeypatch):
    gate(run, 0.99)
    run.save_summary(json.loads(run.summary.read_text()))
    monkeypatch.setattr("medfl.pipeline.register_run.check_files", lambda *_, **__: True)
    monkeypatch.setattr(
        sys, "argv", ["medfl", "register", str(run.path), "--name", "x", "--gates", "held_out_auroc_min=0.1"]
    )
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == GateFailed.exit_code


def test_exchanged_weights_are_not_registered_whatever_is_measured(run, client):
    run.save_summary(json.loads(run.summary.read_text()))
    run.model.write_bytes(run.model.read_bytes() + b" ")
    for remeasure in (False, True):
        with pytest.raises(MedflError, match=r"model\.safetensors as the run did not write it"):
            register_run(run.path, name="exchanged", remeasure=remeasure)
    assert not client.search_registered_models("name='exchanged'")


def test_two_at_once_make_one_version(run, client, monkeypatch):
    run.save_summary(json.loads(run.summary.read_text()))
    search, answers = type(client).search_model_versions, []

    def slow(self, *args, **kwargs):
        found = search(self, *args, **kwargs)
        time.sleep(0.3)
        return found

    monkeypatch.setattr(type(client), "search_model_versions", slow)
    ask = lambda: answers.append(register_run(run.path, name="twice", alias="champion"))  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.partition(";")[0] for answer in answers} == {"Registered: models:/twice@champion (version 1)"}
    assert len(search(client, "name='twice'")) == 1
