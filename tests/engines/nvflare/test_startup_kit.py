"""Kits: each party's own and no more, keys that stay where they are, and one sentence for what is wrong with one."""

import datetime as dt
import hashlib
import importlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from nvflare.lighter.utils import sign_folders

from medfl import config
from medfl.engines.nvflare import preflight, startup_kit
from medfl.engines.nvflare.job import ALLOWED, write_job
from medfl.engines.nvflare.preflight import address, reach, server_kit, site_name
from medfl.engines.nvflare.provision import SIGNATURE, place_server
from medfl.engines.nvflare.run_kit import TwiceHeard, join
from medfl.engines.nvflare.session import Job, command, free_port, session, wait_for_sites
from medfl.engines.nvflare.site_keys import make_request
from medfl.engines.nvflare.startup_kit import make_kits
from medfl.engines.own_wheel import own_wheel
from medfl.engines.processes import Crew
from medfl.engines.remote.audit_log import certificate_beside, entries, verify
from medfl.engines.remote.party_files import read_site
from medfl.engines.remote.server_endpoint import compare_groups
from medfl.engines.remote.site_endpoint import SiteEndpoint
from medfl.engines.remote.site_policy import approve, pipeline_digest
from medfl.errors import MedflError
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.run import run
from medfl.runs.folder import RunFolder
from medfl.runs.progress import ProgressCallbacks
from medfl.tracking.connect import client_for
from tests.engines.remote.test_endpoints import SMALL, same_result
from tests.pipeline.test_run import own_folder

SITES = ("held-out-01", "site-01", "site-02")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    path = tmp_path_factory.mktemp("pipelines") / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return load_pipeline(path)


@pytest.fixture(scope="module")
def made(pipeline, tmp_path_factory):
    """Kits for a server that nobody finds."""
    out = tmp_path_factory.mktemp("kits") / "out"
    assert make_kits(pipeline, out, "no-such-host.invalid", 8002) == ["server", *SITES]
    return out


@pytest.fixture
def kits(made, tmp_path):
    """A copy to be spoilt."""
    return Path(shutil.copytree(made, tmp_path / "kits"))


def keys_in(folder: Path) -> set[str]:
    """Private keys below a folder, as text, wherever they hide."""
    found = set()
    for file in folder.rglob("*"):
        if file.is_file():
            text = file.read_text(errors="ignore").replace("\\n", "\n")
            found |= {part.split("-----END")[0] for part in text.split("PRIVATE KEY-----\n")[1::2]}
    return found


def test_a_private_key_is_in_its_own_kit_only_and_for_its_owner_only(made):
    held = {name: keys_in(made / name) for name in ("server", *SITES, "authority")}
    assert {name: len(keys) for name, keys in held.items()} == dict.fromkeys(SITES, 1) | {"server": 2, "authority": 1}
    assert len(set.union(*held.values())) == sum(map(len, held.values()))
    assert sorted(p.name for p in made.iterdir()) == ["authority", *sorted(("server", *SITES))]
    for file in made.rglob("*"):
        assert file.stat().st_mode & 0o077 == 0 or file.name in ("README.md", "rootCA.pem"), file


def test_each_kit_holds_its_partys_files_only(made, pipeline):
    slices = {name: (made / name / "medfl" / "allocation.csv").read_text().splitlines()[1:] for name in SITES}
    files = {name: {line.rsplit(",", 1)[1] for line in lines} for name, lines in slices.items()}
    for name in SITES:
        text = "".join(p.read_text(errors="ignore") for p in (made / name).rglob("*") if p.is_file())
        assert f"class_mix:\n  {SMALL['task']['classes'][0]}" in text  # its own
        for other in set(SITES) - {name}:
            assert not any(file in text for file in files[other])
        own, site, share = read_site(made / name / "medfl", name)
        assert len(share.rows) == len(slices[name])
        assert site == next(s for s in pipeline.all_sites if s.name == name)
        assert own.tracking.enabled is False
        assert "medfl deploy join ." in (made / name / "README.md").read_text()
    parts = [p for p in (made / "server").rglob("*") if p.is_file() and p.suffix != ".whl"]
    text = "".join(p.read_text(errors="ignore") for p in parts)
    assert not any(file in text for found in files.values() for file in found)
    assert "class_mix" not in text
    assert "medfl deploy serve ." in (made / "server" / "README.md").read_text()


def test_each_kit_carries_the_medfl_that_made_it(made):
    name, wheel = own_wheel()
    for party in ("server", *SITES):
        software = made / party / "software"
        unit = "medfl-serve.service" if party == "server" else "medfl-join.service"
        assert {file.name for file in software.iterdir()} == {name, "constraints.txt", "SHA256SUMS", unit}
        sums = dict(line.split("  ")[::-1] for line in (software / "SHA256SUMS").read_text().splitlines())
        files = [file for file in software.iterdir() if file.name != "SHA256SUMS"]
        assert sums == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
        assert (software / name).read_bytes() == wheel
        page = (made / party / "README.md").read_text()
        assert f'pip install -c software/constraints.txt "software/{name}[nvflare]"' in page
        assert "Do not run FLARE's `startup/start.sh`" in page


def test_no_kit_is_begun_where_no_wheel_can_be_made(pipeline, tmp_path, monkeypatch):
    def none():
        raise MedflError("no wheel")

    monkeypatch.setattr(startup_kit, "own_wheel", none)
    with pytest.raises(MedflError, match="no wheel"):
        make_kits(pipeline, tmp_path / "out", "localhost", 8002)
    assert not (tmp_path / "out").exists()


def test_a_site_admits_no_code_no_shell_and_sends_no_log(made):
    for name in SITES:
        local = made / name / "local"
        assert not (local / "resources.json.default").exists()
        resources = json.loads((local / "resources.json").read_text())
        assert resources["class_allow_list"] == list(ALLOWED)
        assert resources["class_list_enforcement_mode"] == "enforce"
        assert resources["allow_log_streaming"] is False
        assert "stream" not in json.dumps(resources["components"])
        rights = json.loads((local / "authorization.json").read_text())["permissions"]
        assert rights == {"project_admin": dict.fromkeys(("submit_job", "manage_job", "view", "operate"), "any")}
        assert site_name(made / name) == name


def spoil(kits, what):
    """Damage a kit in one way; returns what to do with it."""
    site, server = kits / "site-01", kits / "server"
    if what == "server joins":
        return lambda: site_name(server)
    if what == "site serves":
        return lambda: server_kit(site)
    if what == "no folder":
        return lambda: site_name(kits / "nobody")
    if what == "policy":
        (site / "local" / "authorization.json").write_text("{}")
    elif what == "startup":
        (site / "startup" / "fed_client.json").write_text("{}")
    elif what == "key":
        (site / "startup" / "client.key").chmod(0o644)
    elif what == "other site":
        shutil.copy(kits / "site-02" / "medfl" / "site.yaml", site / "medfl" / "site.yaml")
        return lambda: read_site(site / "medfl", "site-01")
    elif what == "no kit":
        (server / "medfl" / "kits.json").write_text(json.dumps(["site-01", "held-out-01"]))
        return lambda: server_kit(server)
    elif what == "name":
        return lambda: reach(site)
    return lambda: site_name(site)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("server joins", "the kit of the server; start it with `medfl deploy serve"),
        ("site serves", "the kit of a site; start it with `medfl deploy join"),
        ("no folder", "is no kit"),
        ("policy", "local is not as it was signed"),
        ("startup", "startup is not as it was signed"),
        ("key", "chmod 600"),
        ("other site", "is the file of site-02, but this kit belongs to site-01"),
        ("no kit", "names site-02, which has no kit"),
        ("name", "no-such-host.invalid, is not known here"),
    ],
)
def test_what_is_wrong_with_a_kit_is_one_sentence(kits, what, says):
    with pytest.raises(MedflError, match=says) as caught:
        spoil(kits, what)()
    assert "\n" not in str(caught.value)


def loads(**part):
    return lambda facts: facts["components"].append({"id": "x", "path": "os.mkdir", "args": {}} | part)


@pytest.mark.parametrize("party", ["site-01", "server"])
@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("local/resources.json", loads()),
        ("local/resources.json", lambda facts: facts["components"][0]["args"].update(command="rm")),
        ("local/resources.json", lambda facts: facts["components"][0].update(path="subprocess.run")),
        ("local/authorization.json", lambda facts: facts["permissions"].update(member="any")),
        ("local/log_config.json.default", lambda f: f["formatters"]["baseFormatter"].update({"()": "os.system"})),
        ("local/log_config.json.default", lambda f: f["handlers"]["logFileHandler"].update(filename="/etc/x")),
        ("local/log_config.json", lambda facts: None),
        ("local/custom.py", lambda facts: None),
        ("startup/fed_KIND.json", lambda facts: facts.update(components=[{"path": "os.mkdir"}])),
        ("startup/fed_KIND.json", lambda facts: facts["servers"][0].update(handlers=[{"path": "os.mkdir"}])),
    ],
)
def test_a_kit_that_names_more_than_medfl_writes_does_not_start_though_it_is_signed(kits, party, file, change):
    """Whoever makes kits can sign anything; FLARE would build any class that they name."""
    kind = "server" if party == "server" else "client"
    kit, name = kits / party, file.replace("KIND", kind)
    facts = json.loads((kit / name).read_text()) if (kit / name).exists() else {}
    change(facts)
    (kit / name).write_text(json.dumps(facts))
    key = serialization.load_pem_private_key((kits / "authority" / "rootCA.key").read_bytes(), password=None)
    for folder in ("startup", "local"):
        sign_folders(kit / folder, key, signature_file=SIGNATURE)
    with pytest.raises(MedflError, match="names what medfl does not write into a kit") as caught:
        server_kit(kit) if party == "server" else site_name(kit)
    assert str(kit / name) in str(caught.value)


def test_a_kit_that_medfl_wrote_starts_wherever_it_lies(kits):
    place_server(kits / "server")
    server_kit(kits / "server")
    kits.rename(kits.with_name("moved"))
    server_kit(kits.with_name("moved") / "server")
    assert site_name(kits.with_name("moved") / "site-01") == "site-01"


def test_a_job_names_exact_classes(tmp_path):
    """FLARE takes what stands on the list and what lies below it; below these there is nothing that is loaded."""
    for path in ALLOWED:
        module, _, name = path.rpartition(".")
        assert isinstance(getattr(importlib.import_module(module), name), type)
    job = write_job(tmp_path, "run1", 60.0, 2)
    text = "".join(file.read_text() for file in job.rglob("*.json"))
    assert set(re.findall(r'"path": "([^"]+)"', text)) == set(ALLOWED)


def test_a_server_for_this_machine_listens_on_it_alone(pipeline, tmp_path, made):
    make_kits(pipeline, tmp_path / "kits", "localhost", 8002)
    stated = json.loads((tmp_path / "kits" / "server" / "startup" / "fed_server.json").read_text())
    assert [server["service"]["target"] for server in stated["servers"]] == ["localhost:8002"]
    assert address(tmp_path / "kits" / "server") == ("localhost", 8002)
    assert address(made / "server")[0] == "server"  # reached from elsewhere: every device


def test_two_processes_under_one_name_are_an_alarm(tmp_path):
    log, said = tmp_path / "flare.log", []
    again = "Failed to re-activate the client:{}: already registered with another token.\n"
    log.write_text(again.format("site-01"))  # of an earlier run
    heard = TwiceHeard(log, SITES, said.append)
    with log.open("a") as stream:
        stream.write("Client: site-02 already registered. Re-login the client with a new token.\n")  # started anew
        stream.write(again.format("\x1b[2J") + again.format("site-02"))
        stream.write(again.format("site-01")[:30])
    for _ in range(2):
        heard.look()
    assert len(said) == 1
    assert said[0].startswith("ALARM: two processes answer as site-02.")
    with log.open("a") as stream:
        stream.write(again.format("site-01")[30:])
    heard.look()
    assert [words.split()[5] for words in said] == ["site-02.", "site-01."]


@pytest.mark.parametrize(("days", "says"), [(-3, "this machine's clock says"), (4000, "ended on")])
def test_a_clock_that_is_off_is_told_at_the_site(made, monkeypatch, days, says):
    shown = dt.datetime.now(dt.UTC) + dt.timedelta(days=days)

    class Clock(dt.datetime):
        @classmethod
        def now(cls, tz=None):
            return shown

    monkeypatch.setattr(preflight.datetime, "datetime", Clock)
    with pytest.raises(MedflError, match=says):
        site_name(made / "site-01")


def test_the_way_to_the_server_is_tried_before_anything_starts(pipeline, tmp_path):
    port = free_port(0)
    make_kits(pipeline, tmp_path / "a", "localhost", port)
    make_kits(pipeline, tmp_path / "b", "localhost", port)
    kit = tmp_path / "a" / "site-01"
    assert address(kit) == ("localhost", port)
    assert reach(kit) is False  # nobody there yet: worth waiting for
    for other, says in (("a", None), ("b", "of another making")):
        startup = tmp_path / other / "server" / "startup"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(startup / "server.crt", startup / "server.key")
        with socket.create_server(("127.0.0.1", port)) as listening:

            def answer(listening=listening, context=context):
                plain, _ = listening.accept()
                try:
                    with context.wrap_socket(plain, server_side=True):
                        time.sleep(0.2)
                except ssl.SSLError:
                    plain.close()

            thread = threading.Thread(target=answer)
            thread.start()
            if says is None:
                assert reach(kit) is True
            else:
                with pytest.raises(MedflError, match=says):
                    reach(kit)
            thread.join()


def own_pipeline(tmp_path, seeds=(1, 2), **changes):
    roots = [own_folder(tmp_path / n, {"lung_n": 1, "colon_n": 2}, s) for n, s in zip(("a", "b"), seeds, strict=True)]
    sites = [{"name": root.name, "data": {"source": "folder", "root": str(root)}} for root in roots]
    content = SMALL | {"data": {"source": "folder", "mode": "own", "size": 32}, "sites": {"train": sites}} | changes
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(content))
    return load_pipeline(path)


def test_source_groups_are_compared_by_keyed_hashes_without_a_name(tmp_path):
    pipeline = own_pipeline(tmp_path, seeds=(1, 1))  # the same sixteen patients' names at both
    out = tmp_path / "kits"
    make_kits(pipeline, out, "localhost", 8002)
    key = (out / "a" / "medfl" / "consortium.key").read_text()
    assert key == (out / "b" / "medfl" / "consortium.key").read_text()
    assert key not in "".join(p.read_text(errors="ignore") for p in (out / "server").rglob("*") if p.is_file())
    for name in ("a", "b"):
        approve(out / name / "medfl", pipeline_digest(out / name / "medfl"))
    hello = {name: SiteEndpoint(out / name / "medfl", name).handshake() for name in ("a", "b")}
    assert b"patient" not in hello["a"] + hello["b"]
    groups = {name: json.loads(text)["groups"] for name, text in hello.items()}
    assert len(groups["a"]["own"]) == 8
    said = []
    compare_groups(groups, said.append)
    assert len(said) == 1
    assert said[0].startswith("8 source groups have the same names at a and b")
    with pytest.raises(MedflError, match="1 source groups are at site a and at site b"):
        compare_groups({"a": {"published": ["x", "y"]}, "b": {"published": ["y"]}}, said.append)
    compare_groups({"a": {"own": ["x"]}, "b": {"own": ["y"]}}, said.append)
    assert len(said) == 1


def test_a_kit_of_own_data_without_its_key_of_names_takes_no_part(tmp_path):
    """Else its patients would be compared with nobody's, and nothing would say so."""
    out = tmp_path / "kits"
    make_kits(own_pipeline(tmp_path), out, "localhost", 8002)
    party = out / "a" / "medfl"
    approve(party, pipeline_digest(party))
    for spoil in (lambda key: key.write_text("x\n"), lambda key: key.write_text(""), Path.unlink):
        spoil(party / "consortium.key")
        with pytest.raises(MedflError, match=r"consortium.key is missing or damaged.* put the file"):
            read_site(party, "a")
        assert "problem" in json.loads(SiteEndpoint(party, "a").handshake())


@pytest.mark.parametrize("name", ["local/authorization.json", "local/resources.json", "startup/fed_client.json"])
def test_a_kit_that_lost_a_file_says_which(kits, name):
    (kits / "site-01" / name).unlink()
    with pytest.raises(MedflError, match=f"{name} is missing; take the kit that you were sent"):
        site_name(kits / "site-01")


@pytest.mark.parametrize("name", ["pipeline.yaml", "policy.yaml"])
def test_what_is_wrong_in_a_file_of_a_kit_is_said_of_that_file(tmp_path, name):
    out = tmp_path / "kits"
    make_kits(own_pipeline(tmp_path), out, "localhost", 8002)
    (out / "a" / "medfl" / name).write_text("- 1\n")
    with pytest.raises(MedflError) as caught:
        join(out / "a", ProgressCallbacks(), 1)
    assert str(caught.value).startswith(str(out / "a" / "medfl" / name))


def test_kits_of_own_data_need_no_data_and_a_further_site_leaves_the_others_alone(tmp_path):
    pipeline = own_pipeline(tmp_path)
    shutil.rmtree(tmp_path / "a")
    shutil.rmtree(tmp_path / "b")
    out = tmp_path / "kits"
    make_kits(pipeline, out, "localhost", 8002)
    before = {name: keys_in(out / name) for name in ("a", "b", "server")}
    third = pipeline.train_sites[0].model_copy(update={"name": "c"})
    sites = pipeline.sites.model_copy(update={"train": [*pipeline.sites.train, third]})
    make_kits(pipeline.model_copy(update={"sites": sites}), out, "localhost", 8002)
    assert {name: keys_in(out / name) for name in before} == before
    assert site_name(out / "c") == "c"
    server_kit(out / "server")
    with pytest.raises(MedflError, match=r"site a: `data.root` names"):
        read_site(out / "a" / "medfl", "a")


def test_no_kit_is_made_of_a_network_that_cannot_take_the_patches(pipeline, tmp_path):
    model = pipeline.model.model_copy(update={"backbone": "vit_tiny_patch16_224", "args": {}, "weights": "pretrained"})
    with pytest.raises(MedflError, match="doesn't match model"):
        make_kits(pipeline.model_copy(update={"model": model}), tmp_path / "kits", "localhost", 8002)
    assert not (tmp_path / "kits").exists()


def test_dealt_data_are_dealt_to_all_at_once(made, pipeline):
    with pytest.raises(MedflError, match="holds kits already"):
        make_kits(pipeline, made, "localhost", 8002)


started: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def no_process_outlives_its_test():
    """A test that fails leaves no server and no site at work."""
    yield
    left = [process for process in started if process.poll() is None]
    started.clear()
    for process in left:
        process.send_signal(signal.SIGTERM)
    for process in left:
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def medfl(*words, log: Path) -> subprocess.Popen:
    with log.open("ab") as stream:
        process = subprocess.Popen([sys.executable, "-m", "medfl", *map(str, words)], stdout=stream, stderr=stream)
    started.append(process)
    return process


def joined(kit: Path, log: Path) -> subprocess.Popen:
    """A site that approves its pipeline and takes part."""
    return medfl("deploy", "join", kit, "--approve", pipeline_digest(kit / "medfl"), log=log)


@pytest.mark.slow
def test_a_run_from_kits_stopped_and_continued_is_the_run_in_one_process(pipeline, tmp_path):
    longer = pipeline.training.model_copy(update={"rounds": 40, "local_steps": 40})
    pipeline = pipeline.model_copy(update={"training": longer})
    here = run(pipeline, tmp_path / "here").folder
    _, request = make_request("site-01", tmp_path / "kits")  # a key of its own, beside its kit
    make_kits(pipeline, tmp_path / "kits", "localhost", free_port(0), [request])
    out, logs = tmp_path / "run", tmp_path / "log.txt"
    sites = [joined(tmp_path / "kits" / name, logs) for name in SITES]
    serve = ("deploy", "serve", tmp_path / "kits" / "server", "--out", out, "--wait", "120")
    try:
        interrupted_after_a_round(medfl(*serve, log=logs), out, logs)
        assert not (out / "summary.json").exists()
        again = medfl(*serve, log=logs)
        assert again.wait(200) == 0, logs.read_text()
    finally:
        assert ended(*sites) == [130, 130, 130]
    there = type(here)(out)
    same_result(here, there)
    admitted_sites = [e["facts"]["site"] for e in noted(tmp_path / "kits" / "server") if e["event"] == "admitted"]
    assert sorted(admitted_sites) == sorted([*SITES, *SITES])  # at the begin, and when it went on
    assert not [p for p in os.listdir(out) if "allocation.csv" in p]
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", address(tmp_path / "kits" / "site-01")[1])) != 0


def noted(kit: Path) -> list:
    """The entries of a kit's audit log."""
    return list(entries(kit / "medfl" / "audit.jsonl"))


@pytest.mark.slow
def test_a_kit_that_is_revoked_while_a_run_is_at_work_is_left_out_and_told(pipeline, tmp_path):
    longer = pipeline.training.model_copy(update={"rounds": 2000, "local_steps": 20})
    kits, out, logs = tmp_path / "kits", tmp_path / "run", tmp_path / "log.txt"
    _, request = make_request("site-01", kits)
    make_kits(pipeline.model_copy(update={"training": longer}), kits, "localhost", free_port(0), [request])
    sites = [joined(kits / name, logs) for name in SITES]
    try:
        server = medfl("deploy", "serve", kits / "server", "--out", out, "--wait", "120", log=logs)
        until_round(2, out, logs, server)
        assert medfl("deploy", "revoke", kits / "server", "site-02", log=logs).wait(120) == 0
        deadline = time.monotonic() + 400
        while ("site-02", "not connected") not in failures(out)[-1]:
            assert server.poll() is None, logs.read_text()
            assert time.monotonic() < deadline, logs.read_text()
            time.sleep(0.5)
        server.send_signal(signal.SIGINT)
        assert server.wait(200) == 130, logs.read_text()
    finally:
        ended(*sites)
    said = " ".join(logs.read_text().split())
    assert "Site site-02 is not ready: its kit is revoked" in said
    assert "site-02: the server's operator has revoked this kit: site-02 since" in said
    assert noted(kits / "site-02")[-1]["facts"]["problem"] == "its kit is revoked"
    assert all(record["counted"] for record in RunFolder(out).records())


def interrupted_after_a_round(server: subprocess.Popen, out: Path, logs: Path) -> None:
    """Stop a server with Ctrl-C once it has a round to keep."""
    deadline = time.monotonic() + 150
    while not (out / "checkpoint" / "state.json").exists() and server.poll() is None:
        assert time.monotonic() < deadline, logs.read_text()
        time.sleep(0.02)
    server.send_signal(signal.SIGINT)
    assert server.wait(60) == 130, logs.read_text()


def ended(*processes: subprocess.Popen) -> list[int]:
    """Ask all to end before any is waited for; their exit codes."""
    for process in processes:
        process.send_signal(signal.SIGTERM)
    return [process.wait(30) for process in processes]


def until_round(number: int, out: Path, logs: Path, server: subprocess.Popen) -> None:
    """Wait until a run has so many rounds."""
    deadline = time.monotonic() + 400
    while len(RunFolder(out).records() if (out / "rounds.jsonl").exists() else []) < number:
        assert server.poll() is None, logs.read_text()
        assert time.monotonic() < deadline, logs.read_text()
        time.sleep(0.05)


def kill_job_of(kit: Path) -> None:
    """Kill the process that works for a kit in the run that is on, as a machine's trouble would."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "worker_process" in " ".join(words) and str(kit) in words:
            process.kill()


@pytest.mark.slow
def test_a_site_killed_twice_and_the_server_once_come_back_and_cost_no_bit(pipeline, tmp_path):
    longer = pipeline.training.model_copy(update={"rounds": 40, "local_steps": 20})
    pipeline = pipeline.model_copy(update={"training": longer})
    here = run(pipeline, tmp_path / "here").folder
    kits, out, logs = tmp_path / "kits", tmp_path / "run", tmp_path / "log.txt"
    make_kits(pipeline, kits, "localhost", free_port(0))
    sites = [joined(kits / name, logs) for name in SITES]
    serve = ("deploy", "serve", kits / "server", "--out", out, "--wait", "200")
    try:
        server = medfl(*serve, log=logs)
        for number in (3, 12):
            until_round(number, out, logs, server)
            kill_job_of(kits / "site-01")
        until_round(22, out, logs, server)
        server.kill()
        assert medfl(*serve, log=logs).wait(400) == 0, logs.read_text()
    finally:
        ended(*sites)
    same_result(here, RunFolder(out))
    log = kits / "server" / "medfl" / "audit.jsonl"
    assert sum(entry["event"] == "goes on" for entry in entries(log)) == 2
    for name in ("server", *SITES):
        log = kits / name / "medfl" / "audit.jsonl"
        checked = verify(log, certificate_beside(log))
        assert (checked.problems, checked.signed) == ([], checked.entries)


@pytest.mark.slow
def test_a_site_that_comes_late_is_named_until_then_and_takes_part_from_the_next_round(pipeline, tmp_path):
    changes = {
        "training": pipeline.training.model_copy(update={"rounds": 2000, "local_steps": 20}),  # more than are awaited
        "tracking": config.Tracking(uri=f"sqlite:///{tmp_path / 'mlflow.db'}"),
    }
    make_kits(pipeline.model_copy(update=changes), tmp_path / "kits", "localhost", free_port(0))
    out, logs = tmp_path / "run", tmp_path / "log.txt"
    sites = [joined(tmp_path / "kits" / name, logs) for name in ("site-01", "held-out-01")]
    try:
        server = medfl("deploy", "serve", tmp_path / "kits" / "server", "--out", out, "--wait", "40", log=logs)
        until_round(2, out, logs, server)
        assert "Site site-02 is not connected" in logs.read_text()
        sites.append(joined(tmp_path / "kits" / "site-02", logs))
        deadline = time.monotonic() + 400
        while not (whole := [t for t, names in enumerate(failures(out)) if not names]):
            assert server.poll() is None, logs.read_text()
            assert time.monotonic() < deadline, logs.read_text()
            time.sleep(0.5)
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 130, logs.read_text()
    finally:
        assert ended(*sites) == [130] * len(sites)
    early = whole[0]
    assert early > 1
    assert failures(out) == [[("site-02", "not connected")]] * early + [[]] * (len(failures(out)) - early)
    assert all(record["counted"] for record in RunFolder(out).records())
    # MLflow has the rounds once, those of the second part behind those of the first.
    client = client_for(changes["tracking"].uri)
    runs = client.search_runs([client.get_experiment_by_name("medfl").experiment_id])
    (told,) = (run for run in runs if run.data.tags["role"] == "federation")
    history = sorted(client.get_metric_history(told.info.run_id, "failures"), key=lambda m: m.step)
    assert [(m.step, m.value) for m in history] == [(t, float(t < early)) for t in range(len(history))]


def failures(out: Path) -> list[list[tuple[str, str]]]:
    """Who failed in each round of a run, and why."""
    return [[(f["site"], f["reason"]) for f in record["failures"]] for record in RunFolder(out).records()]


def certificate(folder: Path, authority: Path, ends: dt.timedelta) -> tuple[Path, Path]:
    """A certificate of site-01 that ends so long from now, signed by an authority, and its key."""
    root = x509.load_pem_x509_certificate((authority / "rootCA.pem").read_bytes())
    signer = serialization.load_pem_private_key((authority / "rootCA.key").read_bytes(), password=None)
    mine, now = rsa.generate_private_key(65537, 2048), dt.datetime.now(dt.UTC)
    built = (
        x509.CertificateBuilder(root.subject, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "site-01")]))
        .public_key(mine.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=2))
        .not_valid_after(now + ends)
        .sign(signer, hashes.SHA256())
    )
    folder.mkdir()
    (folder / "client.crt").write_bytes(built.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "client.key").write_bytes(mine.private_bytes(*form))
    return folder / "client.crt", folder / "client.key"


def admitted(port: int, *pair: Path) -> bool:
    """Whether a server goes on talking to who shows this certificate, or none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if pair:
        context.load_cert_chain(*pair)
    with socket.create_connection(("127.0.0.1", port), timeout=3) as plain:
        try:
            with context.wrap_socket(plain) as secure:
                return secure.recv(1) != b""
        except TimeoutError:  # it waits for the first word
            return True
        except OSError:
            return False


@pytest.mark.slow
def test_the_server_admits_its_own_sites_and_no_unknown_or_expired_certificate(pipeline, tmp_path):
    port = free_port(0)
    for consortium in ("a", "b"):
        make_kits(pipeline, tmp_path / consortium, "localhost", port)
    ours, theirs = tmp_path / "a", tmp_path / "b"
    logs = tmp_path / "log.txt"
    server = medfl("deploy", "serve", ours / "server", "--out", tmp_path / "run", "--wait", "300", log=logs)
    try:
        deadline = time.monotonic() + 120
        while "The server listens" not in (logs.read_text() if logs.exists() else ""):
            assert server.poll() is None, logs.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        day = dt.timedelta(days=1)
        seen = {
            "kit": admitted(port, *(ours / "site-01" / "startup" / name for name in ("client.crt", "client.key"))),
            "ours": admitted(port, *certificate(tmp_path / "ours", ours / "authority", day)),
            "none": admitted(port),
            "unknown": admitted(port, *(theirs / "site-01" / "startup" / n for n in ("client.crt", "client.key"))),
            "expired": admitted(port, *certificate(tmp_path / "old", ours / "authority", -day)),
        }
    finally:
        assert ended(server) == [130], logs.read_text()
    assert seen == {"kit": True, "ours": True, "none": False, "unknown": False, "expired": False}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["code", "class"])
def test_a_job_that_brings_code_or_names_another_class_is_not_carried_out(pipeline, tmp_path, what):
    """Whoever leads is known to all; what a site lets a job do is the site's."""
    kits, marker = tmp_path / "kits", tmp_path / "carried-out"
    make_kits(pipeline, kits, "localhost", free_port(0))
    place_server(kits / "server")
    job = write_job(tmp_path / "job", "run1", 60.0, 1)
    if what == "code":
        (job / "app" / "custom").mkdir()
        (job / "app" / "custom" / "evil.py").write_text(
            f"open({str(marker)!r}, 'w').close()\n\nclass Evil:\n    pass\n"
        )
    config_file = job / "app" / "config" / "config_fed_client.json"
    stated = json.loads(config_file.read_text())
    evil = {"code": ("evil.Evil", {}), "class": ("subprocess.Popen", {"args": ["touch", str(marker)]})}[what]
    stated["components"].append({"id": "evil", "path": evil[0], "args": evil[1]})
    config_file.write_text(json.dumps(stated))
    with Crew(f"job-{what}") as crew:
        for name in ("server", "site-01"):
            crew.start(name, command(kits / name, name), tmp_path / f"{name}.log")
        until = time.monotonic() + 90
        with session(kits / "server" / "lead", until) as opened:
            assert wait_for_sites(opened, ["site-01"], until, lambda: None) == {"site-01"}
            over = Job(opened, job, lambda: None)
            while (why := over()) is None and time.monotonic() < until:
                time.sleep(0.5)
    assert why is not None
    assert not marker.exists()
