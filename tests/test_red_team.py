"""Four attackers, end to end: whoever makes the kits, a colleague's run folder, a curious server, the network between.

Each attempt ends in one sentence, at the party that can mend it. What single readers refuse stands in
tests/test_security.py and in the tests that SECURITY.md names.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import threading
from pathlib import Path

import pytest
import torch
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from nvflare.lighter.utils import sign_folders

from medfl.engines.nvflare.preflight import address, reach, server_kit, site_name
from medfl.engines.nvflare.provision import AUTHORITY, KEYLESS_SIGNATURE, SIGNATURE
from medfl.engines.nvflare.run_kit import permitted
from medfl.engines.nvflare.run_layout import laid_before
from medfl.engines.nvflare.session import free_port
from medfl.engines.nvflare.site_keys import complete, make_request
from medfl.engines.nvflare.startup_kit import make_kits
from medfl.engines.remote.admission import Admission, revoke, with_proof
from medfl.engines.remote.audit_log import AuditLog, certificate_beside, entries, verify
from medfl.engines.remote.codec import BadMessage, pack, unpack_answer, unpack_request
from medfl.engines.remote.greeting import Installation
from medfl.engines.remote.party_files import read_pipeline
from medfl.engines.remote.remote_transport import NoAnswer
from medfl.engines.remote.site_endpoint import SiteEndpoint
from medfl.engines.remote.site_policy import approve, pipeline_digest
from medfl.messages import EvaluateRequest, Failure, MeasureRequest, Request, TrainRequest
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.run import resume
from medfl.pipeline.trained_model import find_model
from medfl.report.run_report import write_report
from medfl.runs.digests import sealed
from medfl.runs.folder import RunFolder
from tests.datafiles import OWN, write_folders
from tests.engines.remote.test_kit_identity import certificate
from tests.runfolders import FakeRun
from tests.test_security import bomb, refused  # noqa: F401
from tests.tiny import tiny

HELLO = Installation.here().encode()


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kits of north, which made its own key, and of south; both have data. Beside them what north kept."""
    folder = tmp_path_factory.mktemp("consortium")
    root = write_folders(folder / "images", {"lung_aca": 16, "lung_n": 16})
    sites = [{"name": name, "data": {"root": str(root)}} for name in ("north", "south")]
    plan = tiny(task={"classes": ["lung_aca", "lung_n"]}, data=OWN, sites={"train": sites})
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan))
    key, request = make_request("north", folder)
    make_kits(load_pipeline(folder / "plan.yaml"), folder / "kits", "localhost", free_port(0), [request])
    assert complete(folder / "kits" / "north", key) == key
    return folder


@pytest.fixture
def kits(consortium: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(consortium / "kits", tmp_path / "kits"))


def signed_again(kits: Path, kit: Path) -> None:
    """As whoever makes the kits can sign what he likes, but for the key that the site made."""
    own = kit / "startup" / "client.key"
    own.rename(kit / own.name)
    authority = serialization.load_pem_private_key((kits / "authority" / AUTHORITY[1]).read_bytes(), password=None)
    for folder, file in (("startup", KEYLESS_SIGNATURE), ("local", SIGNATURE)):
        sign_folders(kit / folder, authority, signature_file=file)
    (kit / own.name).rename(own)


def test_who_makes_the_kits(kits: Path) -> None:
    """He has the authority's key. He signs other programs into a kit, changes the pipeline after it was read, and takes
    the place of a site whose key he never had."""
    north = kits / "north"
    assert site_name(north) == "north"
    approve(north / "medfl", pipeline_digest(north / "medfl"))
    permitted(north, read_pipeline(north / "medfl"), "north", None, print)

    policy = north / "local" / "resources.json"
    before, facts = policy.read_text(), json.loads(policy.read_text())
    facts["components"].append({"id": "x", "path": "subprocess.Popen", "args": {"args": ["sh"]}})
    policy.write_text(json.dumps(facts))
    assert "is not as it was signed; take the kit that you were sent" in refused(site_name, north)
    signed_again(kits, north)
    said = refused(site_name, north)
    assert said.startswith(f"{policy} names what medfl does not write into a kit, and FLARE would run it; do not use")
    policy.write_text(before)
    signed_again(kits, north)
    assert site_name(north) == "north"

    plan = north / "medfl" / "pipeline.yaml"
    plan.write_text(plan.read_text().replace("rounds: 2", "rounds: 200"))
    words: list[str] = []
    said = refused(permitted, north, read_pipeline(north / "medfl"), "north", None, words.append)
    assert "nobody at this site has approved the pipeline" in said
    assert any("trains in 200 rounds" in line for line in words)

    shutil.copy(kits / "south" / "startup" / "client.key", north / "startup" / "client.key")
    assert "is not the key of this kit's certificate" in refused(site_name, north)


def test_a_colleagues_run_folder(tmp_path: Path, bomb: tuple[bytes, Path], monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """It may hold anything. Whoever reports on it, goes on with it or takes its model runs nothing, writes nowhere else
    and starts no kit."""
    monkeypatch.setenv("MEDFL_CACHE", str(tmp_path / "cache"))
    folder = FakeRun(tmp_path / "given").whole().folder
    victim = tmp_path / "victim"
    victim.write_text("mine")
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(sealed(summary, folder)))

    (folder / "report.html").symlink_to(victim)
    (folder / ".report.html.tmp").symlink_to(victim)
    write_report(folder)
    assert victim.read_text() == "mine"

    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(bomb[0])
    said = refused(find_model, str(folder))
    assert "holds model.safetensors as the run did not write it, by the digests in summary.json; restore it" in said
    (folder / "summary.json").write_text(json.dumps(sealed(summary, folder)))  # he can write the digests, too
    assert "is not a readable safetensors file" in refused(find_model(str(folder)).load)
    (folder / "model.safetensors").write_bytes(whole)

    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "state.json").write_text("{}")
    (folder / "checkpoint" / "server.safetensors").write_bytes(bomb[0])
    assert "is damaged" in refused(RunFolder(folder).load_checkpoint, {})

    (folder / "engine").mkdir()
    facts = {"engine": "kit", "run": "ab" * 16, "kit": str(tmp_path / "evil")}
    (folder / "engine" / "engine.json").write_text(json.dumps(facts))
    assert "whose programs would be started, and you have not begun this run with it" in refused(laid_before, folder)
    assert "keep their own state; continue it with `medfl resume`" in refused(resume, folder)
    (folder / "engine" / "server").symlink_to(tmp_path)
    assert "is a link, and all that a run writes stays in its folder" in refused(laid_before, folder)


def ready(kit: Path, name: str) -> SiteEndpoint:
    """A site at work whose people have approved the pipeline."""
    approve(kit / "medfl", pipeline_digest(kit / "medfl"))
    return SiteEndpoint(kit / "medfl", name)


def test_a_curious_server(kits: Path) -> None:
    """It has a valid kit, follows the protocol, and asks for more than the pipeline needs: of training data, of rounds
    that are not planned, with weights of its own again and again, and before anybody there has said yes."""
    north = kits / "north"
    early = json.loads(SiteEndpoint(north / "medfl", "north").handshake(HELLO))
    assert "nobody at this site has approved the pipeline" in early["problem"]
    (north / "medfl" / "policy.yaml").write_text("messages_a_round: 4\nmembers: false\n")
    agreed = north / "medfl" / "pipeline.yaml"  # asks for no membership; the server will
    agreed.write_text(re.sub(r"members: \d+", "members: 0", agreed.read_text()))
    site = ready(north, "north")
    site.handshake(HELLO)
    assert site._ready is not None
    bounds = site._ready.bounds
    model = site._ready.site.shared.model
    weights, buffers = model.weights(), model.buffers()

    def asked(kind: type[Request], round_: int = 0, splits: tuple[str, ...] = ("val",), **more: object) -> str:
        """The sentence that the server gets; "" for an answer."""
        message = pack(kind(round_, weights, buffers, splits, **more), bounds)
        answer = unpack_answer(site.handle("run", message), "north", round_, bounds)
        return answer.reason if isinstance(answer, Failure) else ""

    assert asked(EvaluateRequest, splits=("train",)) == "the policy of this site does not permit figures of train data"
    assert asked(EvaluateRequest, round_=77) == "round 77 of a pipeline that was approved with 2"
    members = asked(MeasureRequest, resamples=9, members=50)
    assert members == "the policy of this site does not permit to tell training patches from test patches"
    for probe in range(4):
        weights = weights * (1 + 0.01 * probe)
        assert asked(EvaluateRequest) == ""
    assert asked(EvaluateRequest) == "more than 4 questions in round 0"

    log = north / "medfl" / "audit.jsonl"
    refusals = [entry["facts"]["reason"] for entry in entries(log) if entry["event"] == "refused"]
    assert len(refusals) == 4
    checked = verify(log, certificate_beside(log))
    assert (checked.problems, checked.signed) == ([], checked.entries)
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*lines[:2], *lines[3:]]) + "\n")  # what it would have the site forget
    assert "entry 3 is missing" in verify(log, certificate_beside(log)).problems


def test_a_network_between(kits: Path) -> None:
    """It answers in the server's place, alters bytes, and sends again what it has recorded; and somebody on it has a
    kit that was revoked."""
    north, server = kits / "north", kits / "server" / "medfl"
    server_kit(kits / "server")
    assert "is not the server of this kit's consortium" in refused(with_a_stranger, north)

    site = ready(north, "north")
    recorded: list[bytes] = []

    def hello(name: str, message: bytes) -> bytes:
        recorded.append(site.handshake(message))
        return recorded[-1]

    audit = AuditLog(server)
    admit = Admission(server, hello, audit)
    assert json.loads(admit("north", HELLO))["role"] == "train"
    replay = Admission(server, lambda name, message: recorded[0], audit)
    with pytest.raises(NoAnswer, match="it does not show a kit of this consortium in its name"):
        replay("north", HELLO)

    assert site._ready is not None
    bounds = site._ready.bounds
    request = TrainRequest(0, torch.zeros(bounds.weights), torch.zeros(bounds.buffers), ("val",))
    message = pack(request, bounds)
    answer = site.handle("run", message)
    unpack_answer(answer, "north", 0, bounds)
    with pytest.raises(BadMessage, match="an answer in another site's name or to another round"):
        unpack_answer(answer, "north", 1, bounds)
    with pytest.raises(BadMessage, match="an answer in another site's name or to another round"):
        unpack_answer(answer, "south", 0, bounds)
    for altered in (message[:-9], message.replace(b"train", b"trawl"), b"\xff" * 8 + message[8:]):
        with pytest.raises(BadMessage):
            unpack_request(altered, bounds)
        said = unpack_answer(site.handle("run", altered), "north", 0, bounds)
        assert isinstance(said, Failure)
        assert said.reason.count("\n") == 0
        assert "Traceback" not in said.reason

    entry = revoke(server, "north", {"north", "south"}, "laptop lost")
    with pytest.raises(NoAnswer, match="its kit is revoked: north since"):
        Admission(server, lambda name, message: stolen(north, message), audit)("north", HELLO)
    told = json.loads(Admission(server, hello, audit)("north", HELLO))
    assert told["problem"] == "its kit is revoked"
    assert f"has revoked this kit: {entry}; ask the consortium for a new one" in (north / "medfl/medfl.log").read_text()
    assert [each["event"] for each in entries(server / "audit.jsonl")] == ["admitted", "refused", "revoked", "refused"]


def stolen(kit: Path, message: bytes) -> bytes:
    """What a thief of a kit answers, who minds no list."""
    return with_proof(kit / "medfl", "north", message, b'{"site": "north"}')


def with_a_stranger(kit: Path) -> None:
    """Look for the server where somebody else listens, with a certificate of his own making."""
    port = address(kit)[1]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*self_signed(kit.parent))
    with socket.create_server(("127.0.0.1", port)) as listening:

        def answer() -> None:
            plain, _ = listening.accept()
            try:
                context.wrap_socket(plain, server_side=True).close()
            except OSError:
                plain.close()

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            reach(kit)
        finally:
            thread.join()


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate that says that it is the server's, and its key."""
    key = rsa.generate_private_key(65537, 2048)
    made, pem = certificate("server", key, "server", key), serialization.Encoding.PEM
    form = (pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files = folder / "stranger.crt", folder / "stranger.key"
    for file, content in zip(files, (made.public_bytes(pem), key.private_bytes(*form)), strict=True):
        file.write_bytes(content)
    return files
