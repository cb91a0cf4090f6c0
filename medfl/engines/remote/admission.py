"""Which kits the server admits: a site shows at the first word that its kit has a key, and one that is not revoked.

The server asks with a number used once; the site signs it with its kit's key and shows its certificate. What is signed
begins otherwise than what a kit signs elsewhere, so that no server can have a masked sum's key or an audit entry signed
by asking. `revoked.json` beside the server's pipeline lists what is revoked; who operates the server writes it. Between
parties without kits (one machine) nothing is asked.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfl.data.atomic_file import write_text
from medfl.engines.remote.audit_log import AuditLog
from medfl.engines.remote.greeting import GREETING_LIMIT
from medfl.engines.remote.kit_signature import read_certificate, vouch, vouched
from medfl.engines.remote.remote_transport import Ask, NoAnswer
from medfl.errors import MedflError, nearest
from medfl.plain_text import printable, visible

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

REVOKED = "revoked.json"
NONCE, REVOKED_FOR, PROOF = "nonce", "revoked", "proof"  # parts of first words
NUMBER = re.compile(r"[0-9a-f]{64}")
SERIAL = re.compile(r"[0-9a-f]{8,40}")
REASON = 200


@dataclass(frozen=True)
class Revocation:
    """Kits that are no longer admitted: one by the `serial` of its certificate, hexadecimal, or those of a `site` whose
    certificate was made until `at` (UTC, to the second), so that a new kit of that site is admitted."""

    at: str
    site: str = ""
    serial: str = ""
    reason: str = ""

    def covers(self, site: str, certificate: Certificate) -> bool:
        """Whether a site's certificate is among them."""
        if self.serial:
            return self.serial == serial_of(certificate)
        return site == self.site and certificate.not_valid_before_utc <= datetime.fromisoformat(self.at)

    def __str__(self) -> str:
        why = f" ({visible(self.reason)})" if self.reason else ""
        return f"{visible(self.site) or f'serial {self.serial}'} since {self.at}{why}"


def serial_of(certificate: Certificate) -> str:
    """A certificate's serial number, hexadecimal."""
    return f"{certificate.serial_number:x}"


def revocations(folder: Path) -> list[Revocation]:
    """What is revoked in a server's party folder. Raises MedflError where the list is damaged."""
    file = folder / REVOKED
    try:
        return [_entry(part) for part in json.loads(file.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise MedflError(f"{file} is damaged, so nobody is admitted ({error}); mend it, or restore a copy") from None


def revoke(folder: Path, which: str, sites: Collection[str], reason: str = "") -> Revocation:
    """Note that a site's kits, or the kit with this serial, are admitted no more; it is in the audit log too.

    Raises:
        MedflError: `which` is neither a site that has a kit nor a serial; the list cannot be written.
    """
    at, why = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S+00:00"), printable(reason, REASON)
    serial = which.lower().replace(":", "")
    if which in sites:
        entry = Revocation(at, site=which, reason=why)
    elif SERIAL.fullmatch(serial):
        entry = Revocation(at, serial=serial.lstrip("0"), reason=why)
    else:
        raise MedflError(
            f"{which} is neither a site of this kit ({', '.join(sorted(sites))}) nor the serial of a "
            f"certificate.{nearest(which, sites)}"
        )
    listed = [asdict(one) for one in [*revocations(folder), entry]]
    try:
        write_text(folder / REVOKED, json.dumps(listed, indent=1) + "\n", private=True)
        AuditLog(folder).write("revoked", **{name: value for name, value in asdict(entry).items() if value})
    except OSError as error:
        raise MedflError(f"{folder / REVOKED} cannot be written: {error.strerror}") from None
    return entry


class Admission:
    """Asks sites for their first words, and lets through those whose kit is admitted.

    Args:
        folder: the server's party folder.
        hello: carries first words to a site and back. Raises NoAnswer or Stopped.
        audit: notes who was admitted, and who was not and why.

    Raises:
        MedflError: the list of revoked kits is damaged.
    """

    def __init__(self, folder: Path, hello: Ask, audit: AuditLog) -> None:
        root = folder.parent / "startup" / "rootCA.pem"
        self.hello, self.audit = hello, audit
        self.root = read_certificate(root) if root.is_file() else None
        self.revoked = revocations(folder)

    def __call__(self, site: str, message: bytes) -> bytes:
        """A site's answer to these first words. Raises NoAnswer, also for a site that is not admitted."""
        if self.root is None:
            return self.hello(site, message)
        nonce = secrets.token_hex(32)
        theirs = [asdict(one) for one in self.revoked if one.site in ("", site)]
        answer = self.hello(site, json.dumps(json.loads(message) | {NONCE: nonce, REVOKED_FOR: theirs}).encode())
        facts = _facts(answer)
        if "problem" in facts:  # it does not take part
            return answer
        proof = facts.get(PROOF)
        certificate = vouched(proof, self.root, site, _words(site, nonce)) if isinstance(proof, dict) else None
        if certificate is None:
            raise self._refused(site, "it does not show a kit of this consortium in its name")
        if entry := next((one for one in self.revoked if one.covers(site, certificate)), None):
            raise self._refused(site, f"its kit is revoked: {entry}", serial=serial_of(certificate))
        self.audit.write("admitted", site=site, serial=serial_of(certificate))
        return answer

    def _refused(self, site: str, reason: str, **facts: str) -> NoAnswer:
        self.audit.write("refused", site=site, reason=reason, **facts)
        return NoAnswer(f"{reason}; make it a new kit with `medfl deploy kit` if it is to take part")


def with_proof(folder: Path, site: str, server: bytes, answer: bytes) -> bytes:
    """A site's first words with the proof that the server asks for; as they are where it asks for none, or where the
    site's folder lies in no kit."""
    nonce, startup = _facts(server).get(NONCE), folder.parent / "startup"
    if not isinstance(nonce, str) or not NUMBER.fullmatch(nonce) or not (startup / "client.key").is_file():
        return answer
    proof = vouch(startup, _words(site, nonce))
    return json.dumps(json.loads(answer) | {PROOF: proof}).encode()


def revoked_here(folder: Path, site: str, server: bytes) -> str | None:
    """What the site's own people are told where the server's first words revoke the kit that the folder lies in."""
    listed, file = _facts(server).get(REVOKED_FOR), folder.parent / "startup" / "client.crt"
    if not isinstance(listed, list) or not file.is_file():
        return None
    certificate = read_certificate(file)
    for entry in _readable(listed):
        if entry.covers(site, certificate):
            return f"the server's operator has revoked this kit: {entry}; ask the consortium for a new one"
    return None


def _readable(listed: Iterable[Any]) -> Iterable[Revocation]:
    for part in listed:
        try:
            yield _entry(part)
        except (ValueError, TypeError):
            continue


def _entry(part: Any) -> Revocation:
    """Raises ValueError, TypeError."""
    entry = Revocation(**part)
    if not all(isinstance(value, str) for value in asdict(entry).values()) or bool(entry.site) == bool(entry.serial):
        raise ValueError("an entry is of one site or of one serial")
    if datetime.fromisoformat(entry.at).tzinfo is None:
        raise ValueError("a time without a zone")
    return entry


def _facts(data: bytes) -> Mapping[str, Any]:
    """The parts of first words; none where they are none, which whoever decodes them says."""
    try:
        facts = json.loads(data) if isinstance(data, bytes) and len(data) <= GREETING_LIMIT else {}
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _words(site: str, nonce: str) -> bytes:
    return f"medfl first word: {site} has this kit, asked with {nonce}".encode()
