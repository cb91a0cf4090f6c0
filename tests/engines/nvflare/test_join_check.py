"""`medfl deploy join KIT --check`: a line a thing, a remedy in each that failed, and nothing begun."""

import re
import shutil
import socket
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from medfl.cli import app
from medfl.engines.nvflare import join_check
from medfl.engines.nvflare.join_check import check_join, expected
from medfl.engines.nvflare.kit_software import constraints
from medfl.engines.nvflare.session import free_port
from medfl.engines.nvflare.startup_kit import make_kits
from medfl.engines.remote.site_policy import approve, pipeline_digest
from medfl.pipeline import machine_check
from medfl.pipeline.load_pipeline import load_pipeline
from tests.datafiles import OWN, write_folders
from tests.engines.remote.test_endpoints import SMALL


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A kit of a site whose server is this machine, and is not there."""
    folder = tmp_path_factory.mktemp("check")
    root = write_folders(folder / "images", {"lung_aca": 20, "lung_n": 20})
    site = {"name": "site-01", "data": {"root": str(root)}}
    keys = {"task": {"classes": ["lung_aca", "lung_n"]}, "data": OWN, "sites": {"train": [site]}}
    (folder / "own.yaml").write_text(yaml.safe_dump({**SMALL, **keys}))
    make_kits(load_pipeline(folder / "own.yaml"), folder / "kits", "localhost", free_port(8002))
    kit = folder / "kits" / "site-01"
    approve(kit / "medfl", pipeline_digest(kit / "medfl"))
    return kit


@pytest.fixture
def kit(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "site-01"))


def looked_at(kit):
    return {check.what: check for check in check_join(kit)}


def test_the_lines_are_those_that_the_kits_page_expects(kit, monkeypatch):
    monkeypatch.setattr(join_check, "reach", lambda kit: True)
    checks = list(check_join(kit))
    assert all(check.passed for check in checks)
    page = (kit / "README.md").read_text()
    listed = [line.split()[:2] for line in expected(kit, "site-01", "localhost:1")]
    assert listed == [str(check).split()[:2] for check in checks]
    lines = {check.what: str(check) for check in checks}
    for same in ("Python", "versions", "kit", "certificate", "approval", "server"):
        assert f"    {lines[same]}\n" in page, same
    assert re.fullmatch(r"ok      data         40 patches: train \d+, val \d+, test \d+; 16 read", lines["data"])


def test_it_ends_with_an_error_and_begins_nothing(kit, monkeypatch):
    before = sorted(path for path in kit.rglob("*"))
    done = CliRunner().invoke(app.app, ["deploy", "join", str(kit), "--check"])
    assert "1 of the checks failed" in str(done.exception)
    (failed,) = [line for line in done.output.splitlines() if line.startswith("FAILED")]
    assert failed.split()[1] == "server"
    assert "no server of medfl runs on it; check again once the consortium has started it" in done.output
    assert sorted(path for path in kit.rglob("*")) == before
    monkeypatch.setattr(join_check, "reach", lambda kit: True)
    assert CliRunner().invoke(app.app, ["deploy", "join", str(kit), "--check"]).exit_code == 0


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (TimeoutError(), "ask your network's people to let TCP out to it"),
        (OSError(113, "No route to host"), "No route to host; ask your network's people for a way to it"),
        (None, "look whether a proxy is in between"),
    ],
)
def test_why_a_server_is_not_reached(kit, monkeypatch, error, says):
    def connect(*_, **__):
        if error:
            raise error
        return socket.socket()

    monkeypatch.setattr(join_check, "reach", lambda kit: False)
    monkeypatch.setattr(join_check.socket, "create_connection", connect)
    server = looked_at(kit)["server"]
    assert not server.passed
    assert says in server.finding


def test_other_versions_and_an_old_python_are_named_with_what_to_do(kit, monkeypatch):
    monkeypatch.setattr(join_check, "reach", lambda kit: True)
    file = kit / "software" / "constraints.txt"
    file.write_text(re.sub(r"^timm==.*", "timm==0.9", file.read_text(), flags=re.MULTILINE))
    monkeypatch.setattr(join_check.platform, "python_version", lambda: "3.9.1")
    checks = looked_at(kit)
    assert not checks["versions"].passed
    assert re.search(r"timm \S+ \(the kit: 0.9\); install as README.md of the kit says", checks["versions"].finding)
    assert not checks["Python"].passed
    assert "make the environment with such a Python" in checks["Python"].finding
    shutil.rmtree(kit / "software")  # a kit of an earlier medfl
    assert "does not say which the server has" in looked_at(kit)["versions"].finding


def test_a_kit_that_cannot_be_trusted_is_not_looked_into_further(kit):
    (kit / "local" / "authorization.json").write_text("{}")
    *_, last = check_join(kit)
    assert (last.what, last.passed) == ("kit", False)
    assert "take the kit that you were sent" in last.finding


def test_a_pipeline_that_nobody_approved_or_a_policy_forbids(kit, monkeypatch):
    monkeypatch.setattr(join_check, "reach", lambda kit: True)
    digest = pipeline_digest(kit / "medfl")[:12]
    assert looked_at(kit)["approval"].finding == f"the pipeline {digest} may run here"
    (kit / "medfl" / "policy.yaml").write_text("max_rounds: 1\n")
    assert "`max_rounds` is 1" in looked_at(kit)["approval"].finding
    (kit / "medfl" / "policy.yaml").unlink()
    (kit / "medfl" / "approved.json").unlink()
    assert f"`medfl deploy join {kit} --approve {digest}` approves it" in looked_at(kit)["approval"].finding
    wrong = {check.what: check for check in check_join(kit, "0" * 12)}["approval"]
    assert not wrong.passed
    assert {check.what: check for check in check_join(kit, digest)}["approval"].passed
    assert looked_at(kit)["approval"].passed  # and from then on


def test_data_and_disk(kit, monkeypatch):
    monkeypatch.setattr(join_check, "reach", lambda kit: True)
    monkeypatch.setattr(machine_check.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    assert "set MEDFL_CACHE to a folder on a larger disk" in looked_at(kit)["disk"].finding
    root = Path(yaml.safe_load((kit / "medfl" / "site.yaml").read_text())["data"]["root"])
    monkeypatch.setattr(join_check, "SAMPLE", 40)
    file = next(root.rglob("*.png"))
    image = file.read_bytes()
    file.write_bytes(image[:40])
    data = looked_at(kit)["data"]
    file.write_bytes(image)
    assert not data.passed
    assert f"1 cannot be; the first is {file}" in data.finding
    assert "or have the pipeline say `data.on_bad_image: skip`" in data.finding
    (kit / "medfl" / "site.yaml").unlink()
    assert not looked_at(kit)["data"].passed


def test_the_page_says_what_a_hospital_asks(kit):
    page = (kit / "README.md").read_text()
    assert max(map(len, page.splitlines())) < 145
    for said in (
        "Do not install `medfl` from the public package index",
        "Python >=3.11",
        "7 GB for the packages (2 GB without CUDA)",
        "NVIDIA's driver",
        "pip wheel -w wheelhouse -c software/constraints.txt",
        "(cd wheelhouse && sha256sum *) > wheelhouse.sha256",
        "pip install --no-index --find-links wheelhouse",
        "proxy that opens TLS breaks it",
        "software/medfl-join.service",
        "Do not run FLARE's `startup/start.sh`",
        f"The certificate of this kit ends on {join_check.end_of(kit, 'client'):%Y-%m-%d}",
    ):
        assert said in page, said
    unit = (kit / "software" / "medfl-join.service").read_text()
    assert "ExecStart=/opt/medfl/venv/bin/medfl deploy join /opt/medfl/kit\n" in unit
    assert {"torch", "torchvision", "timm", "nvflare"} <= constraints(kit).keys()
