"""A file signed with a key that somebody names, a kit's or any RSA key, in the form that `openssl dgst` checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medfl.data.atomic_file import replacing
from medfl.engines.remote.kit_signature import has_signed, read_certificate, sign
from medfl.errors import MedflError

RSA_ONLY = "it takes an RSA key as kits have, in PEM and without a password"


def signing_key(file: Path) -> Any:
    """The private key in a PEM file. Raises MedflError where there is none that can sign."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MedflError(f"--sign: {file} cannot be read ({_words(error)}); {RSA_ONLY}") from None
    if not isinstance(key, RSAPrivateKey):
        raise MedflError(f"--sign: {file} is a key of another kind; {RSA_ONLY}")
    return key


def write_signature(key: Any, file: Path, signature: Path) -> None:
    """Sign a file's bytes. Raises OSError."""
    with replacing(signature) as staged:
        staged.write_bytes(sign(key, file.read_bytes()))


def is_signed(file: Path, signature: Path, signer: Path) -> bool:
    """Whether the key of `signer`, a certificate or public key in PEM, has signed a file. Raises MedflError where one
    of them cannot be read."""
    try:
        data, given = file.read_bytes(), signature.read_bytes()
    except OSError as error:
        raise MedflError(f"{signature} cannot be read ({error.strerror}); was the dossier signed?") from None
    return has_signed(_public_key(signer), given, data)


def _public_key(file: Path) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = (
            load_pem_public_key(file.read_bytes())
            if b"PUBLIC KEY" in file.read_bytes()
            else read_certificate(file).public_key()
        )
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise MedflError(
            f"--certificate: {file} cannot be read ({_words(error)}); name the signer's certificate, client.crt of a "
            "kit, or a public key, in PEM"
        ) from None
    if not isinstance(key, RSAPublicKey):
        raise MedflError(
            f"--certificate: {file} is of a key of another kind than RSA, with which nothing here is signed"
        )
    return key


def _words(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error).splitlines()[0][:100]
