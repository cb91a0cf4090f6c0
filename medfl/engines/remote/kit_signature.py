"""What the key of a kit signs, and whether a certificate of the kits' authority has signed it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

CERTIFICATE, SIGNATURE = "certificate", "signature"


def kit_key(startup: Path) -> Any:
    """The private key of the kit whose folder `startup` this is; None where there is no kit."""
    for name in ("client.key", "server.key"):
        if (file := startup / name).is_file():
            from cryptography.hazmat.primitives.serialization import load_pem_private_key

            return load_pem_private_key(file.read_bytes(), password=None)
    return None


def _scheme() -> tuple[Any, Any]:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    return padding.PKCS1v15(), hashes.SHA256()  # FLARE's kits have RSA keys


def sign(key: Any, data: bytes) -> bytes:
    """The signature of a kit's key under data."""
    signature: bytes = key.sign(data, *_scheme())
    return signature


def has_signed(key: Any, signature: bytes, data: bytes) -> bool:
    """Whether a signature is that of a public key under data."""
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, data, *_scheme())
    except InvalidSignature:
        return False
    return True


def read_certificate(file: Path) -> Certificate:
    """The certificate in a PEM file. Raises OSError, ValueError."""
    from cryptography import x509

    return x509.load_pem_x509_certificate(file.read_bytes())


def vouch(startup: Path, words: bytes) -> dict[str, str]:
    """A site's certificate and the signature of its kit's key under some words, as hexadecimal text."""
    from cryptography.hazmat.primitives.serialization import Encoding

    certificate = read_certificate(startup / "client.crt").public_bytes(Encoding.DER)
    return {CERTIFICATE: certificate.hex(), SIGNATURE: sign(kit_key(startup), words).hex()}


def vouched(shown: Mapping[str, Any], root: Certificate, site: str, words: bytes) -> Certificate | None:
    """The certificate that was shown, if the authority made it in that site's name and its key has signed the words;
    None if not, whatever is shown in place of what `vouch` makes."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.x509 import load_der_x509_certificate
    from cryptography.x509.oid import NameOID

    try:
        certificate = load_der_x509_certificate(bytes.fromhex(shown[CERTIFICATE]))
        certificate.verify_directly_issued_by(root)
        (name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        signature = bytes.fromhex(shown[SIGNATURE])
        good = name.value == site and has_signed(certificate.public_key(), signature, words)
    except (KeyError, ValueError, TypeError, InvalidSignature):
        return None
    return certificate if good else None
