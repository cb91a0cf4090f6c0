"""A site's kit vouches for the key behind which it masks: signed by the kit's key, checked by the kits' authority."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medfl.engines.remote.audit_log import has_signed, kit_key, sign
from medfl.methods.core.masked_sums import KEY, SIGNED

CERTIFICATE, SIGNATURE = SIGNED


class KitKeys:
    """The `KeyIdentity` of a kit.

    Args:
        startup: the kit's folder with its key, its certificate and the authority's.
    """

    def __init__(self, startup: Path) -> None:
        self.startup = startup

    def sign(self, site: str, key: str) -> Mapping[str, str]:
        """The kit's certificate and its signature."""
        from cryptography.hazmat.primitives.serialization import Encoding

        certificate = _certificate(self.startup / "client.crt").public_bytes(Encoding.DER)
        signature = sign(kit_key(self.startup), _words(site, key))
        return {CERTIFICATE: certificate.hex(), SIGNATURE: signature.hex()}

    def check(self, site: str, announced: Mapping[str, str]) -> str | None:
        """Whether a certificate of this kit's authority, in that site's name, has signed the key."""
        from cryptography import x509
        from cryptography.exceptions import InvalidSignature
        from cryptography.x509.oid import NameOID

        what = f"the key that is called that of {site} is not signed by its kit"
        try:
            certificate = x509.load_der_x509_certificate(bytes.fromhex(announced[CERTIFICATE]))
            certificate.verify_directly_issued_by(_certificate(self.startup / "rootCA.pem"))
            (name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
            signature = bytes.fromhex(announced[SIGNATURE])
            good = name.value == site and has_signed(certificate.public_key(), signature, _words(site, announced[KEY]))
        except (KeyError, ValueError, TypeError, InvalidSignature):
            return what
        return None if good else what


def kit_identity(folder: Path) -> KitKeys | None:
    """Who the party of a folder is; None where its folder lies in no kit."""
    startup = folder.parent / "startup"
    return KitKeys(startup) if (startup / "client.key").is_file() else None


def _words(site: str, key: str) -> bytes:
    return f"medfl masked sum: the key of {site} is {key}".encode()


def _certificate(file: Path) -> Any:
    from cryptography import x509

    return x509.load_pem_x509_certificate(file.read_bytes())
