"""What is looked at before a kit's process starts, so that what is wrong is said where it can be mended."""

from __future__ import annotations

import datetime
import json
import socket
import ssl
from pathlib import Path

from cryptography import x509

from medfl.engines.nvflare.job import ALLOWED
from medfl.engines.nvflare.kit_policy import WRITTEN, foreign
from medfl.engines.nvflare.provision import intact
from medfl.engines.nvflare.site_keys import fits, name_of
from medfl.engines.remote.kit_signature import read_certificate
from medfl.engines.remote.party_files import KITS, PARTY, SERVER, read_pipeline
from medfl.errors import MedflError
from medfl.runs.versions import versions

WAIT = 10.0  # seconds for one attempt to reach the server


def site_name(kit: Path) -> str:
    """The site whose kit this is.

    Raises:
        MedflError: no kit, another party's, an altered one, keys that others can read, a certificate that does not hold
            now.
    """
    startup = kit / "startup"
    if (startup / "server.crt").is_file():
        raise MedflError(f"{kit} is the kit of the server; start it with `medfl deploy serve {kit}`")
    return _certified(kit, "client")


def server_kit(kit: Path) -> None:
    """Raise MedflError unless this is the server's kit, and every site of its pipeline has one too."""
    if (kit / "startup" / "client.crt").is_file() and not (kit / "startup" / "server.crt").is_file():
        raise MedflError(f"{kit} is the kit of a site; start it with `medfl deploy join {kit}`")
    _certified(kit, SERVER)
    kit_names = kit_sites(kit)
    for site in read_pipeline(kit / PARTY).all_sites:
        if site.name not in kit_names:
            raise MedflError(
                f"{kit / PARTY / 'pipeline.yaml'} names {site.name}, which has no kit; make one with `medfl deploy kit`"
            )


def kit_sites(kit: Path) -> set[str]:
    """The sites that have a kit, as the server's says."""
    return set(json.loads((kit / PARTY / KITS).read_text(encoding="utf-8")))


def address(kit: Path) -> tuple[str, int]:
    """Host and port by which a kit reaches the server."""
    kind = "client" if (kit / "startup" / "fed_client.json").is_file() else "server"
    facts = json.loads((kit / "startup" / f"fed_{kind}.json").read_text(encoding="utf-8"))
    host, _, port = facts["servers"][0]["service"]["target"].rpartition(":")
    return host, int(port)


def reach(kit: Path) -> bool:
    """Whether the server answers a site's kit now.

    Raises:
        MedflError: its name is unknown here, or another server answers.
    """
    host, port = address(kit)
    startup = kit / "startup"
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(startup / "rootCA.pem"))
    context.check_hostname = False  # the certificate's own name is compared below
    context.load_cert_chain(startup / "client.crt", startup / "client.key")
    try:
        with (
            socket.create_connection((host, port), timeout=WAIT) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            shown = x509.load_der_x509_certificate(secure.getpeercert(binary_form=True) or b"")
    except socket.gaierror:
        raise MedflError(
            f"the name of the server in this kit, {host}, is not known here; ask your network's people for a way "
            f"to it, or the consortium for a kit with the right name"
        ) from None
    except ssl.SSLError:
        raise MedflError(
            f"what answers at {host}:{port} is not the server of this kit's consortium; the kit or the server is of "
            f"another making"
        ) from None
    except OSError:
        return False
    if name_of(shown) != SERVER:
        raise MedflError(f"what answers at {host}:{port} is {name_of(shown)}, not the server; check the address")
    return True


def end_of(kit: Path, kind: str) -> datetime.date:
    """The day on which the certificate of a kit, of a "client" or the "server", ends."""
    return certificate(kit, kind).not_valid_after_utc.date()


def certificate(kit: Path, kind: str) -> x509.Certificate:
    """The certificate of a kit, of a "client" or the "server"."""
    return read_certificate(kit / "startup" / f"{kind}.crt")


def _same_making(kit: Path) -> None:
    """Raise MedflError where the kit's signed policy is another medfl's: it would refuse this one's jobs."""
    policy = kit / "local" / "resources.json"
    if not policy.is_file():
        return
    try:
        allowed = json.loads(policy.read_text(encoding="utf-8")).get("class_allow_list")
    except (ValueError, AttributeError, RecursionError):
        allowed = None
    if allowed != list(ALLOWED):
        raise MedflError(
            f"{kit} was made by another version of medfl than the one installed here ({versions()['medfl']}); use the "
            f"version that its README.md names, or ask for a new kit, made with `medfl deploy kit`"
        )


def _certified(kit: Path, kind: str) -> str:
    """The name in a kit's certificate, once all that can be wrong with it has been looked at."""
    _same_making(kit)
    startup = kit / "startup"
    key = startup / f"{kind}.key"
    if (startup / "client.crt").is_file() and not key.exists() and kind == "client":
        own_key = f"{name_of(certificate(kit, kind))}.key"
        raise MedflError(
            f"{kit} has no key, since the site made its own; put {own_key} beside the kit and give `medfl deploy join "
            f"{kit}`, which takes it from there"
        )
    for file in (startup / f"{kind}.crt", key, startup / "rootCA.pem", kit / PARTY / "pipeline.yaml"):
        if not file.is_file():
            raise MedflError(
                f"{kit} is no kit: there is no {file.relative_to(kit)} in it; name the folder you were sent"
            )
    if key.stat().st_mode & 0o077:
        raise MedflError(f"others on this machine can read {key}; run `chmod 600 {key}`")
    for folder in ("startup", "local") if kind == "client" else ("startup",):  # a server's is completed where it runs
        if not intact(kit, folder):
            raise MedflError(f"{kit / folder} is not as it was signed; take the kit that you were sent")
    for file in (kit / name.format(kind) for name in WRITTEN):
        if not file.is_file():
            raise MedflError(f"{file} is missing; take the kit that you were sent")
    if (strange := foreign(kit, kind)) is not None:
        raise MedflError(
            f"{kit / strange} names what medfl does not write into a kit, and FLARE would run it; do not use this kit, "
            f"and ask those who made it"
        )
    own = certificate(kit, kind)
    if not fits(key, own):
        raise MedflError(f"{key} is not the key of this kit's certificate; put the key that belongs to it back")
    now = datetime.datetime.now(datetime.UTC)
    if now < own.not_valid_before_utc:
        raise MedflError(
            f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC, before the kit was made; set it by a time server"
        )
    if now > own.not_valid_after_utc:
        raise MedflError(f"the certificate of {kit} ended on {own.not_valid_after_utc:%Y-%m-%d}; ask for a new kit")
    return name_of(own)
