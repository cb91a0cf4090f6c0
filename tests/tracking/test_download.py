"""A model's way through MLflow and back, by sqlite and by a server of MLflow with its artifact proxy."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors.torch import load_file

from medfl import config
from medfl.export.write_export import export
from medfl.pipeline.evaluate_model import evaluate
from medfl.pipeline.monitor_sites import monitor
from medfl.pipeline.trained_model import find_model
from medfl.tracking.connect import client_for
from medfl.tracking.log_evaluation import log_evaluation
from medfl.tracking.log_monitoring import log_monitoring
from medfl.tracking.model_registry import register
from medfl.tracking.sync import sync
from tests.export.test_write_export import settle
from tests.pipeline.test_monitor_sites import loose
from tests.processes import quick_processes
from tests.runfolders import CLASSES, SIZE, FakeRun, database, empty_database
from tests.tiny import write_tiny

PATIENCE = 120.0  # seconds for a server to answer, on a machine that is busy


def serve(folder: Path, port: int) -> None:
    """What `mlflow server` comes to, in this process, for ever: its settings in the environment, its app in uvicorn."""
    from mlflow.server import constants

    os.chdir(folder)
    sys.stdout = sys.stderr = (folder / "log").open("w", buffering=1)
    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: f"sqlite:///{folder}/mlflow.db",
        constants.ARTIFACT_ROOT_ENV_VAR: "mlflow-artifacts:/",
        constants.ARTIFACTS_DESTINATION_ENV_VAR: f"{folder}/files",
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    import uvicorn
    from mlflow.server.fastapi_app import app

    uvicorn.run(app, host="127.0.0.1", port=port)


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """An MLflow server over a sqlite file, files through its proxy; its address. Nothing of it is left afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir()
    shutil.copy(empty_database(), folder / "mlflow.db")
    server = quick_processes().Process(target=serve, args=(folder, port))
    server.start()
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except OSError:
                assert server.is_alive(), (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.1)
        yield address
    finally:
        server.kill()
        server.join()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def there_and_back(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Track, register, fetch, evaluate and export one model by `uri`; the folder the fetched model lies in."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    where = config.Tracking(experiment="server")
    folder = settle(FakeRun(tmp_path / "a").whole())
    tracked = sync(folder, where)
    placed = register(folder, name="lung", alias="champion", tracking=where)
    assert (placed.run_id, placed.uri) == (tracked.run_id, "models:/lung@champion")

    found = find_model("models:/lung@champion")
    assert (found.run, found.run_id) == (None, tracked.run_id)  # the run folder is not under runs/
    assert not found.directory.is_relative_to(folder)
    ours, theirs = load_file(folder / "model.safetensors"), load_file(found.directory / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(bool((ours[name] == theirs[name]).all()) for name in ours)

    watched = monitor(found, [str(loose(tmp_path / "new"))])  # as a hospital does that never had the run
    assert (watched["sites"]["new"]["patches"], watched["fingerprint"]) == (24, found.facts["fingerprint"])
    assert "medfl-monitoring" in log_monitoring(watched)

    sites = {"generate": {"count": 2, "held_out": 1, "patches": 24, "dirichlet_alpha": 5.0}}
    tissue = {"source": "tissue", "size": SIZE, "tissue": {"tiles_per_class": 16, "copies": 2, "size": SIZE}}
    pipeline = write_tiny(tmp_path, task={"classes": list(CLASSES)}, data=tissue, sites=sites)
    result = evaluate(found, pipeline_file=str(pipeline))
    assert result["sites"] == evaluate(find_model(str(folder)), pipeline_file=str(pipeline))["sites"]
    assert len(result["sites"]) == 1
    line = log_evaluation(result, found.run_id)
    (name,) = result["sites"]
    client = client_for(uri)
    logged = client.get_run(line.split("run ")[1].split(" ")[0])
    assert logged.data.tags["mlflow.parentRunId"] == tracked.run_id
    assert logged.info.experiment_id == client.get_experiment_by_name("server").experiment_id
    assert name in {r.data.tags.get("site") for r in client.search_runs([logged.info.experiment_id])}

    export("models:/lung@champion", "monai-bundle", tmp_path / "bundle")
    assert "### Limits" in (tmp_path / "bundle" / "docs" / "README.md").read_text()  # the card came along
    return found.directory


def test_by_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there_and_back(tmp_path, f"sqlite:///{database()}", monkeypatch)


@pytest.mark.long
def test_by_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path / "served") as address:
        directory = there_and_back(tmp_path, address, monkeypatch)
        assert not directory.is_relative_to(tmp_path / "served")  # it came by the proxy, not from the server's disk
        kept = {path.name for path in (tmp_path / "served" / "files").rglob("*")}
        assert {"model.safetensors", "model.json", "model_card.md", "summary.json"} <= kept
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{address}/nothing-here", timeout=5)
