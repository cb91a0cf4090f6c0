"""A party's log: every change of it is found and named, and it says what was asked and what left, and no name."""

import datetime
import json
import re
import threading

import pytest
import torch
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from typer.testing import CliRunner

from medfl.cli.app import app
from medfl.engines.remote.audit_log import AuditLog, asked, entries, left, sentence, verify
from medfl.errors import MedflError
from medfl.messages import MeasureRequest, Reply


@pytest.fixture(scope="module")
def identity():
    """A key and the certificate over it, as a kit has them."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "north")]), datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private, made.sign(key, hashes.SHA256()).public_bytes(pem)


@pytest.fixture
def kit(tmp_path, identity):
    """A kit whose log has five entries."""
    (tmp_path / "startup").mkdir()
    for name, held in zip(("client.key", "client.crt"), identity, strict=True):
        (tmp_path / "startup" / name).write_bytes(held)
    log = AuditLog(tmp_path / "medfl")
    for number in range(5):
        log.write("answered", run="r", kind="train", round=number, splits=["val"])
    return tmp_path


def problems(kit, signed=True):
    return verify(kit / "medfl" / "audit.jsonl", kit / "startup" / "client.crt" if signed else None).problems


def rewrite(kit, change):
    file = kit / "medfl" / "audit.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(change(lines)))


def forged(line):
    return line.replace(b'"round":2', b'"round":7')


def test_a_log_that_nobody_touched_is_whole_and_private(kit):
    checked = verify(kit / "medfl" / "audit.jsonl", kit / "startup" / "client.crt")
    assert (checked.entries, checked.signed, checked.problems) == (5, 5, [])
    assert (kit / "medfl" / "audit.jsonl").stat().st_mode & 0o777 == 0o600
    again = AuditLog(kit / "medfl")  # another process goes on
    again.write("greeted")
    assert problems(kit) == []


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda lines: [*lines[:2], forged(lines[2]), *lines[3:]], "entry 3 was changed"),
        (lambda lines: [*lines[:2], *lines[3:]], "entry 3 is missing"),
        (lambda lines: lines[2:], "entries 1 to 2 are missing"),
        (lambda lines: lines[:3], "entries 4 to 5 are missing"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "entry 2 stands after entry 3: it was moved"),
        (lambda lines: [*lines[:4], lines[4].replace(b'"round":4', b'"round":9')], "entry 5 was changed"),
        (lambda lines: [*lines[:2], b"{}\n", *lines[3:]], "line 3 is no entry"),
        (lambda lines: [], "entries 1 to 5 are missing"),
    ],
)
def test_what_was_done_to_a_log_is_found_and_named(kit, change, says, signed):
    rewrite(kit, change)
    assert any(says in problem for problem in problems(kit, signed)), problems(kit, signed)


def test_a_chain_made_anew_without_the_key_is_found(kit, tmp_path_factory):
    other = AuditLog(tmp_path_factory.mktemp("other") / "medfl")
    for entry in entries(kit / "medfl" / "audit.jsonl"):
        other.write(entry["event"], **entry["facts"] | {"round": 0})
    for name in ("audit.jsonl", "audit.end"):
        (kit / "medfl" / name).write_bytes(other.file.with_name(name).read_bytes())
    assert problems(kit, signed=False) == []
    assert len(problems(kit)) == 5
    (kit / "medfl" / "audit.end").unlink()
    assert "audit.end is missing" in problems(kit)[-1]


def test_a_process_killed_while_it_wrote_costs_that_entry_and_is_said(kit):
    with (kit / "medfl" / "audit.jsonl").open("ab") as stream:
        stream.write(b'{"at":"2026')
    AuditLog(kit / "medfl").write("greeted")
    assert problems(kit) == []
    *_, last = entries(kit / "medfl" / "audit.jsonl")
    assert (last["number"], last["facts"]) == (6, {"dropped_bytes": 11})


def test_threads_do_not_tear_the_chain(kit):
    logs = [AuditLog(kit / "medfl") for _ in range(4)]  # as processes would, each with its own lock
    threads = [threading.Thread(target=lambda log=log: [log.write("received") for _ in range(5)]) for log in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verify(kit / "medfl" / "audit.jsonl", kit / "startup" / "client.crt").entries == 25
    assert problems(kit) == []


def test_an_answer_is_noted_by_names_and_counts():
    request = MeasureRequest(3, torch.zeros(2), torch.zeros(1), ("test",))
    withheld = {"min_count": 5, "all": False, "classes": ["a", "b"]}
    reply = Reply(
        "north",
        3,
        samples=40,
        steps=4,
        update=torch.zeros(2),
        metrics={"test": {"auroc": 0.75, "withheld": withheld}},
        sums={"test": {"after": [1.0]}},
    )
    noted = asked(request, "ab12", 900) | left(reply, 1234)
    assert noted == {
        **{"run": "ab12", "kind": "measure", "round": 3, "splits": ["test"], "bytes_in": 900, "bytes_out": 1234},
        **{"vectors": {"update": 2}, "patches": 40, "steps": 4, "withheld_classes": {"test": 2}},
        **{"metrics": {"test": ["auroc", "withheld"]}, "sums": {"test": ["after"]}},
    }
    line = sentence({"number": 1, "at": "2026-01-02T03:04:05Z", "event": "answered", "facts": noted})
    assert "measure, round 3 on test  1,234 bytes left: update of 2 numbers, 2 metrics of test" in line


def test_the_commands_print_and_judge_it(kit):
    shown = CliRunner().invoke(app, ["audit", "show", str(kit), "--last", "2"]).output.splitlines()
    assert [line.split()[0] for line in shown[1:]] == ["4", "5"]
    assert (
        "5 entries, 5 of them signed by its kit, as they were written"
        in CliRunner().invoke(app, ["audit", "verify", str(kit)]).output
    )
    rewrite(kit, lambda lines: lines[:3])
    done = CliRunner().invoke(app, ["audit", "verify", str(kit / "medfl")])
    assert "entries 4 to 5 are missing" in done.output
    assert isinstance(done.exception, MedflError)
    nothing = CliRunner().invoke(app, ["audit", "show", str(kit / "startup")])
    assert "name a kit, a party's folder in it" in str(nothing.exception)


def test_a_log_that_was_removed_is_missed_beside_others(kit):
    for party in ("north", "south"):
        AuditLog(kit / "engine" / party).write("answered", run="r", kind="train", round=0, splits=["val"])
    (kit / "engine" / "south" / "audit.jsonl").unlink()
    done = CliRunner().invoke(app, ["audit", "verify", str(kit)])
    assert "south/audit.jsonl is gone, and audit.end beside it says that it was there" in str(done.exception)


@pytest.mark.parametrize("cut", [lambda lines: lines[:3], lambda lines: [*lines[:3], lines[3][:-9]]])
def test_what_was_cut_off_stays_on_record_when_the_log_goes_on(kit, cut):
    rewrite(kit, cut)
    AuditLog(kit / "medfl").write("greeted")
    assert problems(kit) == ["2 entries had been cut off behind entry 3 when entry 4 was written"]


def test_an_entry_changed_by_hand_is_shown_as_such_and_none_follows_a_line_that_is_none(kit):
    for odd in (b'"facts":{"bytes_out":"x"}', b'"facts":{"kind":1,"splits":3}', b'"facts":7'):
        rewrite(kit, lambda lines, odd=odd: [*lines[:-1], re.sub(rb'"facts":(\{.*?\}|7)', odd, lines[-1])])
        shown = CliRunner().invoke(app, ["audit", "show", str(kit)])
        assert shown.exit_code == 0
        assert problems(kit)
    with pytest.raises(OSError, match="is no entry, so none can follow"):
        AuditLog(kit / "medfl").write("greeted")


def test_a_log_is_not_written_through_a_link(kit, tmp_path):
    file = kit / "medfl" / "audit.jsonl"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    file.unlink()
    file.symlink_to(elsewhere)
    with pytest.raises(OSError, match="link"):
        AuditLog(kit / "medfl").write("greeted")
    assert elsewhere.read_text() == "mine"
    assert json.loads((kit / "medfl" / "audit.end").read_text())["number"] == 5
