"""A file is signed by a key that somebody names; another key, kind of key or file is told from it."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from medfl.engines.remote.file_signature import is_signed, signing_key, write_signature
from medfl.errors import MedflError


def written(folder, name, key):
    """The private and the public key in files."""
    private, public = folder / f"{name}.key", folder / f"{name}.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture(scope="module")
def signer():
    return rsa.generate_private_key(65537, 2048)


def test_there_and_back_and_one_changed_byte(tmp_path, signer):
    private, public = written(tmp_path, "ours", signer)
    file, signature = tmp_path / "file", tmp_path / "file.sig"
    file.write_bytes(b"hashes")
    write_signature(signing_key(private), file, signature)
    assert is_signed(file, signature, public)
    file.write_bytes(b"hashez")
    assert not is_signed(file, signature, public)
    signature.unlink()
    with pytest.raises(MedflError, match="was the dossier signed"):
        is_signed(file, signature, public)


def test_what_is_no_key_to_sign_with_is_a_sentence(tmp_path, signer):
    _, public = written(tmp_path, "ours", signer)
    curve, open_curve = written(tmp_path, "curve", ec.generate_private_key(ec.SECP256R1()))
    locked, other = tmp_path / "locked.key", tmp_path / "other"
    locked.write_bytes(signer.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word")))
    other.write_bytes(b"\x00text")
    for file, words in (
        (public, "PEM"),
        (locked, "password"),
        (other, "PEM"),
        (tmp_path, "directory"),
        (curve, "another kind"),
    ):
        with pytest.raises(MedflError, match=f"--sign: .*{words}"):
            signing_key(file)
    other.write_bytes(b"PUBLIC KEY")
    for file, words in ((other, "cannot be read"), (tmp_path / "none", "No such"), (open_curve, "another kind")):
        with pytest.raises(MedflError, match=f"--certificate: .*{words}"):
            is_signed(public, public, file)
