"""A site shows its kit at the first word; one that is revoked, copied out of date or of nobody is not admitted."""

import datetime
import json

import pytest
from cryptography import x509

from medfl.engines.remote import admission as module
from medfl.engines.remote.admission import (
    REVOKED,
    Admission,
    revocations,
    revoke,
    revoked_here,
    serial_of,
    with_proof,
)
from medfl.engines.remote.audit_log import AuditLog, entries, sentence
from medfl.engines.remote.greeting import Installation, problem
from medfl.engines.remote.kit_identity import kit_identity
from medfl.engines.remote.remote_transport import NoAnswer
from medfl.errors import MedflError
from tests.engines.remote.test_kit_identity import kits as identities  # noqa: F401

HELLO = Installation.here().encode()


@pytest.fixture
def kits(identities, tmp_path):  # noqa: F811
    """Kit -> its party folder; the server's has the authority of the first two."""
    folders = {name: identity.startup.parent / "medfl" for name, identity in identities.items()}
    server = tmp_path / "server"
    (server / "startup").mkdir(parents=True)
    (server / "startup" / "rootCA.pem").write_bytes((identities["north"].startup / "rootCA.pem").read_bytes())
    (server / "medfl").mkdir()
    return folders | {"server": server / "medfl"}


def site(folder, name="south"):
    """A site's end: what it answers to first words."""
    return lambda _, message: with_proof(folder, name, message, json.dumps({"site": name}).encode())


def certificate(folder):
    return x509.load_pem_x509_certificate((folder.parent / "startup" / "client.crt").read_bytes())


def asked(kits, hello, name="south"):
    return Admission(kits["server"], hello, AuditLog(kits["server"]))(name, HELLO)


def noted(kits):
    return [(entry["event"], entry["facts"].get("reason", "")) for entry in entries(kits["server"] / "audit.jsonl")]


def test_a_site_with_its_kit_is_admitted_and_noted_by_its_serial(kits):
    assert json.loads(asked(kits, site(kits["south"])))["site"] == "south"
    (entry,) = entries(kits["server"] / "audit.jsonl")
    assert (entry["event"], entry["facts"]["site"]) == ("admitted", "south")
    assert f"south  serial {serial_of(certificate(kits['south']))}" in sentence(entry)


@pytest.mark.parametrize(
    "hello",
    [
        lambda kits: site(kits["stranger"]),  # a south of another authority
        lambda kits: site(kits["north"], "north"),  # another site's kit under this name
        lambda kits: lambda _, message: b'{"site": "south"}',  # no proof
        lambda kits: lambda _, message: b'{"site": "south", "proof": {"certificate": "00", "signature": []}}',
        lambda kits: lambda _, message: site(kits["south"])(_, HELLO),  # the number is not signed
    ],
)
def test_who_shows_no_kit_of_that_name_is_not_admitted(kits, hello):
    with pytest.raises(NoAnswer, match="it does not show a kit of this consortium in its name; make it a new kit"):
        asked(kits, hello(kits))
    assert noted(kits) == [("refused", "it does not show a kit of this consortium in its name")]


def test_what_was_signed_once_does_not_count_again_nor_for_anything_else(kits):
    answers = []

    def hello(name, message):
        answers.append(site(kits["south"])(name, message))
        return answers[0]

    admit = Admission(kits["server"], hello, AuditLog(kits["server"]))
    admit("south", HELLO)
    with pytest.raises(NoAnswer, match="does not show a kit"):
        admit("south", HELLO)
    # A server cannot have a key for masked sums signed by asking with it.
    nonce = "ab" * 32
    proof = json.loads(with_proof(kits["south"], "south", json.dumps({"nonce": nonce}).encode(), b"{}"))["proof"]
    assert kit_identity(kits["north"]).check("south", {"key": nonce, **proof}) is not None


@pytest.mark.parametrize("nonce", [None, "ab", "x" * 64, ["ab" * 32], "AB" * 32])
def test_a_site_signs_numbers_only(kits, nonce):
    assert with_proof(kits["south"], "south", json.dumps({"nonce": nonce}).encode(), b"{}") == b"{}"


def test_a_revoked_kit_is_refused_with_one_sentence_at_both_ends(kits):
    said = []

    def hello(name, message):
        said.append(revoked_here(kits["south"], "south", message))
        return site(kits["south"])(name, message)

    entry = revoke(kits["server"], "south", {"north", "south"}, "laptop lost")
    with pytest.raises(NoAnswer, match=r"its kit is revoked: south since 20.*\(laptop lost\); make it a new kit"):
        asked(kits, hello)
    assert said == [f"the server's operator has revoked this kit: {entry}; ask the consortium for a new one"]
    assert [event for event, _ in noted(kits)] == ["revoked", "refused"]
    north = site(kits["north"], "north")
    assert asked(kits, north, "north")
    assert (kits["server"] / REVOKED).stat().st_mode & 0o777 == 0o600


def test_a_kit_made_after_the_revocation_is_admitted(kits, monkeypatch):
    class Before(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime.now(tz) - datetime.timedelta(hours=1)

    monkeypatch.setattr(module, "datetime", Before)
    revoke(kits["server"], "south", {"south"})
    assert asked(kits, site(kits["south"]))


def test_one_kit_is_revoked_by_its_serial(kits):
    serial = serial_of(certificate(kits["south"]))
    revoke(kits["server"], ":".join([serial[:2].upper(), serial[2:]]), {"south"})
    with pytest.raises(NoAnswer, match=f"its kit is revoked: serial {serial}"):
        asked(kits, site(kits["south"]))


def test_what_is_no_site_and_no_serial_or_a_damaged_list_is_a_sentence(kits):
    with pytest.raises(MedflError, match=r'sout is neither a site of this kit .* Did you mean "south"'):
        revoke(kits["server"], "sout", {"south"})
    for text in (
        "{",
        "[1]",
        '[{"at": "2027-01-01", "site": "a"}]',
        '[{"at": "x", "site": "a"}]',
        '[{"at": "", "x": 1}]',
    ):
        (kits["server"] / REVOKED).write_text(text)
        with pytest.raises(MedflError, match="is damaged, so nobody is admitted"):
            revocations(kits["server"])


def test_a_site_that_is_not_ready_and_parties_without_kits_are_not_asked_to_prove(kits, tmp_path):
    assert b"no data" in asked(kits, lambda _, message: problem("south", "no data"))
    said = []
    Admission(tmp_path / "engine" / "server", lambda _, m: said.append(m) or b"{}", AuditLog(tmp_path))("south", HELLO)
    assert said == [HELLO]
    assert revoked_here(tmp_path, "south", b'{"revoked": [{"site": "south"}]}') is None
    assert revoked_here(kits["south"], "south", b'{"revoked": [1, {"site": 3, "at": "x"}]}') is None
