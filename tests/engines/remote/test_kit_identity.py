"""The key behind which a site masks is signed by its kit, and by no other."""

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from medfl.engines.remote.kit_identity import kit_identity

KEY = "ab" * 32


def name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def certificate(issuer, signer, subject, key):
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder(name(issuer), name(subject), key.public_key(), x509.random_serial_number())
    return made.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1)).sign(signer, hashes.SHA256())


@pytest.fixture(scope="module")
def kits(tmp_path_factory):
    """Name -> identity: north and south of one authority, and a south of another one."""
    keys = [rsa.generate_private_key(65537, 2048) for _ in range(2)]  # an authority's and a site's, both times
    made = {}
    for number, (kit, authority) in enumerate((("north", 0), ("south", 0), ("stranger", 1))):
        startup = tmp_path_factory.mktemp(kit) / "startup"
        startup.mkdir()
        root, own = keys[authority], keys[1 - authority]
        pem, subject = serialization.Encoding.PEM, kit if number < 2 else "south"
        form = (pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (startup / "rootCA.pem").write_bytes(certificate("ca", root, "ca", root).public_bytes(pem))
        (startup / "client.crt").write_bytes(certificate("ca", root, subject, own).public_bytes(pem))
        (startup / "client.key").write_bytes(own.private_bytes(*form))
        made[kit] = kit_identity(startup.parent / "medfl")
    return made


def test_a_site_knows_the_key_that_another_has_signed(kits):
    said = {"key": KEY, **kits["south"].sign("south", KEY)}
    assert kits["north"].check("south", said) is None


def test_no_other_key_site_or_authority_passes(kits):
    said = {"key": KEY, **kits["south"].sign("south", KEY)}
    strange = {"key": KEY, **kits["stranger"].sign("south", KEY)}
    other = "the key that is called that of south is not signed by its kit"
    for wrong in (said | {"key": "cd" * 32}, strange, {"key": KEY}, said | {"certificate": "00"}):
        assert kits["north"].check("south", wrong) == other
    assert kits["north"].check("north", said) == other.replace("south", "north")


def test_without_a_kit_nobody_signs(tmp_path):
    assert kit_identity(tmp_path / "site-01") is None
