"""`medfl deploy join KIT --check`: all that can be looked at before a site takes part, one line a thing."""

from __future__ import annotations

import datetime
import platform
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from packaging.specifiers import SpecifierSet

from medfl import config
from medfl.data.partition import SitePartition
from medfl.data.rgb import Unreadable
from medfl.engines.nvflare.kit_software import SOFTWARE, asked_python, constraints
from medfl.engines.nvflare.preflight import WAIT, address, end_of, reach, site_name
from medfl.engines.remote.greeting import Installation
from medfl.engines.remote.party_files import PARTY, read_site
from medfl.engines.remote.site_policy import SHOWN, NotApproved, check_permitted, pipeline_digest
from medfl.errors import DISTRIBUTION, MedflError

FEW_DAYS = 30  # until the end of a certificate
SAMPLE = 16  # patches that are read
SiteData = tuple[config.Pipeline, config.SiteConfig, SitePartition]


@dataclass(frozen=True)
class JoinCheck:
    """One thing that was looked at: what it is, whether it is as it must be, and what was found, with what to do."""

    what: str
    passed: bool
    finding: str

    def __str__(self) -> str:
        return f"{'ok' if self.passed else 'FAILED':<8}{self.what:<13}{self.finding}"


def check_join(kit: Path) -> Iterator[JoinCheck]:
    """Look at this machine and a site's kit, and take no part. What depends on a thing that failed is not looked at."""
    yield _python()
    yield _versions(kit)
    device = f"cuda, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "cpu, no GPU is found"
    yield JoinCheck("device", True, device)
    name = ""
    try:
        name = site_name(kit)
    except MedflError as error:
        yield JoinCheck("kit", False, str(error))
        return
    yield JoinCheck("kit", True, f"unaltered, of {name}")
    yield _certificate(kit)
    try:
        party = read_site(kit / PARTY, name)
    except MedflError as error:
        yield JoinCheck("data", False, str(error))
    else:
        yield _data(*party)
        yield _disk(*party)
        yield _approval(kit, party[0])
    yield _server(kit)


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
    return [str(JoinCheck(what, True, finding)) for what, finding in listed]


def _python() -> JoinCheck:
    here, asked = platform.python_version(), asked_python()
    if SpecifierSet(asked).contains(here, prereleases=True):
        return JoinCheck("Python", True, f"{here}, {asked} is asked for")
    return JoinCheck("Python", False, f"{here}, and medfl runs on {asked}; make the environment with such a Python")


def _versions(kit: Path) -> JoinCheck:
    here, asked = Installation.here().versions, _compared(kit)
    if not asked:
        return JoinCheck("versions", True, f"{_stated(here)}; this kit does not say which the server has")
    other = {name: version for name, version in asked.items() if here[name] != version}
    if not other:
        return JoinCheck("versions", True, f"{_stated(here)}, as the kit asks")
    differ = ", ".join(f"{name} {here[name]} (the kit: {version})" for name, version in other.items())
    return JoinCheck("versions", False, f"{differ}; install as README.md of the kit says, from its `{SOFTWARE}`")


def _compared(kit: Path) -> dict[str, str]:
    """Name -> version that the kit asks for, of what the server compares."""
    asked = constraints(kit)
    required = {name: asked.get(DISTRIBUTION if name == "medfl" else name) for name in Installation.here().versions}
    return {name: version for name, version in required.items() if version is not None}


def _stated(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _certificate(kit: Path) -> JoinCheck:
    ends = end_of(kit, "client")
    days = (ends - datetime.datetime.now(datetime.UTC).date()).days
    soon = "; ask for a new kit soon" if days < FEW_DAYS else ""
    return JoinCheck("certificate", True, f"ends on {ends:%Y-%m-%d}, in {days} days{soon}")


def _data(pipeline: config.Pipeline, site: config.SiteConfig, share: SitePartition) -> JoinCheck:
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
        return JoinCheck("data", True, finding)
    first, reason = next(iter(problems.items()))
    skip = pipeline.data.on_bad_image == "skip"
    remedy = "it is left out" if skip else "replace it, or have the pipeline say `data.on_bad_image: skip`"
    return JoinCheck("data", skip, f"{finding}, {len(problems)} cannot be; the first is {first} ({reason}); {remedy}")


def _disk(pipeline: config.Pipeline, site: config.SiteConfig, share: SitePartition) -> JoinCheck:
    needed, place = 3 * pipeline.data.size**2 * len(share.rows), pipeline.cache_dir
    there = next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    finding = f"{needed / 1e9:.1f} GB for patches, {free / 1e9:.1f} GB free in {place}"
    if free > needed:
        return JoinCheck("disk", True, finding)
    return JoinCheck("disk", False, f"{finding}; make room, or set MEDFL_CACHE to a folder on a larger disk")


def _approval(kit: Path, pipeline: config.Pipeline) -> JoinCheck:
    digest = pipeline_digest(kit / PARTY)[:SHOWN]
    try:
        check_permitted(kit / PARTY, pipeline)
    except NotApproved as error:
        return JoinCheck("approval", False, f"{error}; `medfl deploy join {kit} --approve {digest}` approves it")
    except MedflError as error:
        return JoinCheck("approval", False, str(error))
    return JoinCheck("approval", True, f"the pipeline {digest} may run here")


def _server(kit: Path) -> JoinCheck:
    host, port = address(kit)
    try:
        if reach(kit):
            return JoinCheck("server", True, f"{host}:{port} answers")
    except MedflError as error:
        return JoinCheck("server", False, str(error))
    return JoinCheck("server", False, f"nothing answers at {host}:{port}: {_why(lambda: _connect(host, port))}")


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
