"""Keys that a site makes itself: a request for a certificate, the certificate, and the kit made whole at the site.

    at the site         `medfl deploy request SITE`              writes SITE.key, which stays, and SITE.csr
    who makes the kits  `medfl deploy kit ... --request SITE.csr`  a kit with a certificate for that key, and no key
    at the site         `medfl deploy join KIT`                  puts the key into the kit

So whoever makes the kits never holds that site's key.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from medfl.data.atomic_file import replacing
from medfl.engines.remote.kit_signature import read_certificate
from medfl.errors import MedflError

BITS = 2048
CERTIFICATE, KEY = "client.crt", "client.key"
PEM = serialization.Encoding.PEM
Requests = dict[str, x509.CertificateSigningRequest]


def make_request(site: str, folder: Path) -> tuple[Path, Path]:
    """Make a key for a site, 0600, and a request for its certificate; their files, which may not be there yet.

    Raises:
        MedflError: a file is there, or cannot be written.
    """
    key_file, request_file = folder / f"{site}.key", folder / f"{site}.csr"
    key = rsa.generate_private_key(65537, BITS)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, site)])
    request = x509.CertificateSigningRequestBuilder(name).sign(key, hashes.SHA256())
    form = (PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, mode, data in (
            (key_file, 0o600, key.private_bytes(*form)),
            (request_file, 0o644, request.public_bytes(PEM)),
        ):
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
                stream.write(data)
    except FileExistsError as error:
        raise MedflError(f"{error.filename} is there already; name another folder with --out") from None
    except OSError as error:
        raise MedflError(f"{error.filename or folder} cannot be written: {error.strerror}") from None
    return key_file, request_file


def read_requests(files: Iterable[Path], sites: Collection[str]) -> Requests:
    """Site -> its request, for those of these sites that sent one.

    Raises:
        MedflError: a file that is no request, is not signed by the key it is for, is of another kind of key, or of no
            or of a second time the same site.
    """
    requests: Requests = {}
    for file in files:
        try:
            request = x509.load_pem_x509_csr(file.read_bytes())
            sound = request.is_signature_valid
        except OSError as error:
            raise MedflError(f"--request {file} cannot be read: {error.strerror}") from None
        except (ValueError, UnsupportedAlgorithm, InvalidSignature):
            raise MedflError(f"--request {file} is no certificate request; `medfl deploy request` writes one") from None
        key = request.public_key()
        if not sound or not isinstance(key, rsa.RSAPublicKey) or key.key_size < BITS:
            raise MedflError(
                f"--request {file} is not signed by an RSA key of at least {BITS} bits; make it with `medfl deploy "
                f"request`"
            )
        site = name_of(request)
        if site not in sites:
            raise MedflError(f"--request {file} is of {site or 'nobody'}, and the pipeline has {', '.join(sites)}")
        if site in requests:
            raise MedflError(f"--request {file} is a second one of {site}; name one of the two")
        requests[site] = request
    return requests


def certify(kit: Path, request: x509.CertificateSigningRequest, authority: Any) -> None:
    """Put into a new kit a certificate for a request's key in the place of the one that it has, and take its key out.

    Args:
        kit: with a certificate by the same authority for a key that goes.
        authority: the private key that signs.
    """
    startup = kit / "startup"
    old = read_certificate(startup / CERTIFICATE)
    made = x509.CertificateBuilder(old.issuer, old.subject, request.public_key(), x509.random_serial_number())
    made = made.not_valid_before(old.not_valid_before_utc).not_valid_after(old.not_valid_after_utc)
    for extension in old.extensions:
        value = extension.value
        if isinstance(value, x509.SubjectKeyIdentifier):
            value = x509.SubjectKeyIdentifier.from_public_key(request.public_key())
        made = made.add_extension(value, extension.critical)
    (startup / CERTIFICATE).write_bytes(made.sign(authority, hashes.SHA256()).public_bytes(PEM))
    (startup / KEY).unlink()


def complete(kit: Path, key: Path | None = None) -> Path | None:
    """Put the key that the site made into its kit, if it is not there; where it was found, None where nothing was done.

    Args:
        kit: a site's kit.
        key: its file; by default `SITE.key` in the kit, beside it, or in the current folder.

    Raises:
        MedflError: none is found, or it is another key than the certificate's.
    """
    place, file = kit / "startup" / KEY, kit / "startup" / CERTIFICATE
    if place.exists() or not file.is_file():
        return None
    certificate = read_certificate(file)
    name = f"{name_of(certificate)}.key"
    tried = [key] if key else [kit / name, kit.resolve().parent / name, Path(name)]
    source = next((path for path in tried if path.is_file()), None)
    if source is None:
        raise MedflError(
            f"{kit} has no key, since the site made its own: {' and '.join(map(str, tried))} are not there; put the "
            f"{name} that `medfl deploy request` wrote beside the kit, or name it with --key"
        )
    if not fits(source, certificate):
        raise MedflError(
            f"{source} is not the key of this kit's certificate; name the one whose request was sent with --key"
        )
    with replacing(place, private=True) as staged:
        shutil.copyfile(source, staged)
    return source


def fits(key: Path, certificate: x509.Certificate) -> bool:
    """Whether a file holds the private key of a certificate."""
    try:
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return bool(private.public_key() == certificate.public_key())


def name_of(named: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """The common name in a certificate or a request."""
    names = named.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""
