"""`medfl deploy join KIT --check`: all that can be looked at before a site takes part, one line a thing."""

from __future__ import annotations

import datetime
import platform
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from medfl import config
from medfl.data.partition import SitePartition
from medfl.data.rgb import Unreadable
from medfl.engines.nvflare.kit_software import SOFTWARE, constraints
from medfl.engines.nvflare.preflight import WAIT, address, certificate, end_of, reach, server_kit, site_name
from medfl.engines.nvflare.session import free_port
from medfl.engines.remote.admission import revocations, serial_of
from medfl.engines.remote.greeting import Installation
from medfl.engines.remote.party_files import PARTY, read_site
from medfl.engines.remote.site_policy import (
    SHOWN,
    NotApproved,
    approve,
    check_permitted,
    how_to_approve,
    pipeline_digest,
)
from medfl.errors import DISTRIBUTION, MedflError
from medfl.pipeline.machine_check import MachineCheck, asked_python, check_device, check_python, free_space

FEW_DAYS = 30  # until the end of a certificate
SAMPLE = 16  # patches that are read
SiteData = tuple[config.Pipeline, config.SiteConfig, SitePartition]


def check_join(kit: Path, approved: str | None = None) -> Iterator[MachineCheck]:
    """Look at this machine and a site's kit, and take no part. What depends on a thing that failed is not looked at; a
    pipeline whose digest is `approved` is from now on."""
    yield check_python()
    yield _versions(kit)
    yield check_device()
    name = ""
    try:
        name = site_name(kit)
    except MedflError as error:
        yield MachineCheck("kit", False, str(error))
        return
    yield MachineCheck("kit", True, f"unaltered, of {name}")
    yield _certificate(kit)
    try:
        party = read_site(kit / PARTY, name)
    except MedflError as error:
        yield MachineCheck("data", False, str(error))
    else:
        yield _data(*party)
        yield _disk(*party)
        yield _approval(kit, party[0], name, approved)
    yield _server(kit)


def check_kit(kit: Path) -> Iterator[MachineCheck]:
    """As `check_join`; of the server's kit what concerns a server: identity, certificate, its port."""
    if not (kit / "startup" / "server.crt").is_file():
        yield from check_join(kit)
        return
    yield _versions(kit)
    try:
        server_kit(kit)
    except MedflError as error:
        yield MachineCheck("kit", False, str(error))
        return
    yield MachineCheck("kit", True, "unaltered, of the server")
    yield _certificate(kit, "server")
    yield _revoked(kit)
    port = address(kit)[1]
    if free_port(port) == port:
        yield MachineCheck("port", True, f"{port} is free")
    else:
        yield MachineCheck("port", False, f"{port} is in use; end what listens there, or make kits of another port")


def _revoked(kit: Path) -> MachineCheck:
    """Which kits the server refuses."""
    try:
        listed = revocations(kit / PARTY)
    except MedflError as error:
        return MachineCheck("revoked", False, str(error))
    return MachineCheck("revoked", True, "; ".join(map(str, listed)) or "no kit; `medfl deploy revoke` revokes one")


def expected(kit: Path, site: str, server: str) -> list[str]:
    """The lines of a site of a new kit where all is well; what only the site knows is an example."""
    listed = [
        ("Python", f"{platform.python_version()}, {asked_python()} is asked for"),
        ("versions", f"{_stated(_compared(kit))}, as the kit asks"),
        ("device", "cpu, no GPU is found"),
        ("kit", f"unaltered, of {site}"),
        ("certificate", _certificate(kit).finding),
        ("data", "1,200 patches: train 780, val 180, test 240; 16 read"),
        ("disk", "0.2 GB for patches, 63.1 GB free in /opt/medfl/cache"),
        ("approval", f"the pipeline {pipeline_digest(kit / PARTY)[:SHOWN]} may run here"),
        ("server", f"{server} answers"),
    ]
    return [str(MachineCheck(what, True, finding)) for what, finding in listed]


def _versions(kit: Path) -> MachineCheck:
    here, asked = Installation.here().versions, _compared(kit)
    if not asked:
        return MachineCheck("versions", True, f"{_stated(here)}; this kit does not say which the server has")
    other = {name: version for name, version in asked.items() if here[name] != version}
    if not other:
        return MachineCheck("versions", True, f"{_stated(here)}, as the kit asks")
    differ = ", ".join(f"{name} {here[name]} (the kit: {version})" for name, version in other.items())
    return MachineCheck("versions", False, f"{differ}; install as README.md of the kit says, from its `{SOFTWARE}`")


def _compared(kit: Path) -> dict[str, str]:
    """Name -> version that the kit asks for, of what the server compares."""
    asked = constraints(kit)
    required = {name: asked.get(DISTRIBUTION if name == "medfl" else name) for name in Installation.here().versions}
    return {name: version for name, version in required.items() if version is not None}


def _stated(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _certificate(kit: Path, kind: str = "client") -> MachineCheck:
    ends = end_of(kit, kind)
    days = (ends - datetime.datetime.now(datetime.UTC).date()).days
    soon = "; ask for a new kit soon" if days < FEW_DAYS else ""
    serial = serial_of(certificate(kit, kind))
    return MachineCheck("certificate", True, f"ends on {ends:%Y-%m-%d}, in {days} days{soon}; serial {serial}")


def _data(pipeline: config.Pipeline, site: config.SiteConfig, share: SitePartition) -> MachineCheck:
    counts = ", ".join(f"{split} {len(rows):,}" for split, rows in share.splits.items())
    readers = share.readers
    rows = sorted({round(part * (len(readers) - 1) / (SAMPLE - 1)) for part in range(SAMPLE)})
    problems = {}
    for row in rows:
        try:
            readers[row]()
        except Unreadable as error:
            problems[share.locations[row]] = str(error)
    finding = f"{len(readers):,} patches: {counts}; {len(rows)} read"
    if not problems:
        return MachineCheck("data", True, finding)
    first, reason = next(iter(problems.items()))
    skip = pipeline.data.on_bad_image == "skip"
    remedy = "it is left out" if skip else "replace it, or have the pipeline say `data.on_bad_image: skip`"
    return MachineCheck(
        "data", skip, f"{finding}, {len(problems)} cannot be; the first is {first} ({reason}); {remedy}"
    )


def _disk(pipeline: config.Pipeline, site: config.SiteConfig, share: SitePartition) -> MachineCheck:
    needed, place = 3 * pipeline.data.size**2 * len(share.rows), pipeline.cache_dir
    free = free_space(place)
    finding = f"{needed / 1e9:.1f} GB for patches, {free / 1e9:.1f} GB free in {place}"
    if free > needed:
        return MachineCheck("disk", True, finding)
    return MachineCheck("disk", False, f"{finding}; make room, or set MEDFL_CACHE to a folder on a larger disk")


def _approval(kit: Path, pipeline: config.Pipeline, site: str, approved: str | None) -> MachineCheck:
    try:
        if approved is not None:
            approve(kit / PARTY, approved)
        check_permitted(kit / PARTY, pipeline, site)
    except NotApproved as error:
        return MachineCheck("approval", False, f"{error}; {how_to_approve(kit)}")
    except MedflError as error:
        return MachineCheck("approval", False, str(error))
    return MachineCheck("approval", True, f"the pipeline {pipeline_digest(kit / PARTY)[:SHOWN]} may run here")


def _server(kit: Path) -> MachineCheck:
    host, port = address(kit)
    try:
        if reach(kit):
            return MachineCheck("server", True, f"{host}:{port} answers")
    except MedflError as error:
        return MachineCheck("server", False, str(error))
    return MachineCheck("server", False, f"nothing answers at {host}:{port}: {_why(lambda: _connect(host, port))}")


def _connect(host: str, port: int) -> None:
    socket.create_connection((host, port), timeout=WAIT).close()


def _why(connect: Callable[[], None]) -> str:
    """Why a server cannot be reached, and what to do."""
    try:
        connect()
    except TimeoutError:
        return f"no word within {WAIT:g} s; ask your network's people to let TCP out to it"
    except ConnectionRefusedError:
        return "the machine is there, and no server of medfl runs on it; check again once the consortium has started it"
    except OSError as error:
        return f"{error.strerror or error}; ask your network's people for a way to it"
    return "it takes the connection and says nothing; look whether a proxy is in between"
