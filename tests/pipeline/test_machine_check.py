"""`medfl doctor`: what is wrong with a machine or a kit is named, each with what to do."""

import shutil
import socket

import pytest
import torch
from typer.testing import CliRunner

from medfl.cli import app
from medfl.engines.nvflare import join_check
from medfl.engines.nvflare.join_check import check_kit
from medfl.engines.nvflare.session import free_port
from medfl.engines.nvflare.startup_kit import make_kits
from medfl.errors import MedflError
from medfl.pipeline import machine_check
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.machine_check import check_machine
from tests.tiny import tiny


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDFL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")


def seen():
    return {check.what: check for check in check_machine()}


def test_a_fit_machine_has_a_line_a_thing_and_is_left_as_it_was(tmp_path):
    done = CliRunner().invoke(app.app, ["doctor"])
    assert done.exit_code == 0, done.output
    whats = [line[8:].split()[0] for line in done.output.splitlines()]
    assert whats == [
        "Python",
        "versions",
        "extras",
        "device",
        "threads",
        "memory",
        "disk",
        "cache",
        "privacy",
        "MLflow",
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("what", "break_", "says"),
    [
        ("Python", lambda m: m.setattr(machine_check, "asked_python", lambda: ">=9"), "make the environment with such"),
        ("memory", lambda m: m.setattr(machine_check, "MEMORY", 1e18), "take a larger machine"),
        ("disk", lambda m: m.setattr(machine_check, "ROOM", 1e18), "set MEDFL_CACHE to a folder on a larger disk"),
        ("threads", lambda m: m.setattr(torch, "get_num_threads", lambda: 99999), "set OMP_NUM_THREADS to"),
        ("cache", lambda m: m.setenv("MEDFL_CACHE", "/dev/null/x"), "set MEDFL_CACHE to a folder that can"),
        ("MLflow", lambda m: m.setenv("MLFLOW_TRACKING_URI", "htp://x"), 'Did you mean "http"'),
        ("MLflow", lambda m: m.setenv("MLFLOW_TRACKING_URI", "sqlite:////dev/null/y.db"), "cannot be written"),
    ],
)
def test_each_fault_is_named_with_a_remedy(monkeypatch, what, break_, says):
    break_(monkeypatch)
    checks = seen()
    assert not checks[what].passed
    assert says in checks[what].finding
    assert f"1 of {len(checks)} checks failed" in str(CliRunner().invoke(app.app, ["doctor"]).exception)


def test_a_tracking_server_is_spoken_to_and_its_password_is_not_shown(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{port}")
        assert seen()["MLflow"].passed
    down = seen()["MLflow"]
    assert (down.passed, "secret" in down.finding) == (False, False)
    assert f"nothing answers at http://127.0.0.1:{port}: Connection refused; start it" in down.finding


def test_what_no_run_will_read_again_and_a_missing_extra_are_told(tmp_path, monkeypatch):
    store = tmp_path / "cache" / "stores" / "x" / "store.json"
    store.parent.mkdir(parents=True)
    store.write_text('{"shape": [1, 2], "version": 0}')
    monkeypatch.setitem(machine_check.EXTRAS, "onnx", "no-such-distribution")
    checks = seen()
    assert 'not here: onnx (`pip install "medfl-pathology[onnx]"`' in checks["extras"].finding
    assert "`medfl cache clean` removes them" in checks["cache"].finding
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine_check.Path, "is_file", lambda self: True)
    assert "this PyTorch is a CPU build" in machine_check.check_device().finding


def test_what_other_users_can_read_is_told_with_a_remedy(tmp_path, monkeypatch):
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    for name in ("pipeline.yaml", "allocation.csv"):
        (run / name).write_text("")
    (run / "allocation.csv").chmod(0o644)
    store = tmp_path / "cache" / "stores" / "x"
    store.mkdir(parents=True)
    closed = tmp_path / "cache" / "stores" / "y"
    closed.mkdir(0o700)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine_check, "others_can_read", lambda path: bool(path.stat().st_mode & 0o044))
    store.chmod(0o755)
    check = seen()["privacy"]
    assert f"WARNING: other users of this machine can read patches or names of files in {store.parent}" in check.finding
    assert "and 1 more places; `chmod -R go-rwx" in check.finding
    store.chmod(0o700)
    (run / "allocation.csv").chmod(0o600)
    assert "no other user reads" in seen()["privacy"].finding


def test_a_kit_is_looked_at_too(tmp_path, monkeypatch):
    port = free_port(0)
    make_kits(load_pipeline(tiny()), tmp_path / "kits", "localhost", port)
    server, site = tmp_path / "kits" / "server", tmp_path / "kits" / "site-01"
    assert {check.what: check.passed for check in check_kit(server)} == dict.fromkeys(
        ("versions", "kit", "certificate", "revoked", "port"), True
    )
    with socket.create_server(("", port)):
        assert "end what listens there" in {check.what: check for check in check_kit(server)}["port"].finding
    done = CliRunner().invoke(app.app, ["deploy", "revoke", str(server), "site-01", "--reason", "laptop lost"])
    assert "is admitted" in done.output
    listed = {check.what: check for check in check_kit(server)}["revoked"].finding
    assert (listed[:13], listed[-13:]) == ("site-01 since", "(laptop lost)")
    assert listed in CliRunner().invoke(app.app, ["deploy", "revoke", str(server)]).output.replace("\n", " ")
    monkeypatch.setattr(join_check, "reach", lambda kit: True)
    done = CliRunner().invoke(app.app, ["doctor", str(site)])
    assert isinstance(done.exception, MedflError)
    assert next(line for line in done.output.splitlines() if line.startswith("FAILED")).split()[1] == "approval"
    shutil.rmtree(server / "startup")
    assert "is no kit" in list(check_kit(server))[-1].finding
