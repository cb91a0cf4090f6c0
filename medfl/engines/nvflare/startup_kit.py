"""A kit for every party of a pipeline: FLARE's startup kit, the party's own files, and a page on what to do with it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from medfl import config
from medfl.data.atomic_file import PRIVATE_FILE, PRIVATE_FOLDER, write_text
from medfl.data.catalog import brings_own_data
from medfl.data.partition import SitePartition, make_partition
from medfl.data.sources.source_registry import drawn_data
from medfl.engines.nvflare.kit_page import DEALT, DRAWN, OWN, server_page, site_page
from medfl.engines.nvflare.kit_software import write_software
from medfl.engines.nvflare.provision import provision
from medfl.engines.nvflare.run_layout import check_distributed
from medfl.engines.nvflare.site_keys import read_requests
from medfl.engines.own_wheel import own_wheel
from medfl.engines.remote.party_files import KEY, KITS, PARTY, SERVER, write_server, write_site
from medfl.errors import MedflError
from medfl.pipeline.build_site import check_architecture
from medfl.pipeline.model_spec import pinned

RESERVED = ("authority", "lead", SERVER)


def make_kits(pipeline: config.Pipeline, out: Path, host: str, port: int, requests: Sequence[Path] = ()) -> list[str]:
    """Write the kits; returns the parties, the server first. Kits that are there already are left as they are.

    Args:
        out: the folder that will hold a folder for each party, and the authority's.
        host: the name by which sites reach the server.
        requests: files of sites that made their keys themselves (`medfl.engines.nvflare.site_keys`).

    Raises:
        MedflError: what `allocate` raises; a name that a kit cannot have; new kits beside old ones of dealt data; a
            network that cannot take the patches; no wheel of the medfl that runs here can be made.
    """
    check_distributed(pipeline)
    own_wheel()  # where none can be made, nothing is begun
    pipeline = pinned(pipeline)
    names = [site.name for site in pipeline.all_sites]
    taken = sorted(set(names) & set(RESERVED))
    if taken:
        raise MedflError(f"a site is named {taken[0]}, which is the name of another folder of kits; rename the site")
    check_architecture(pipeline)
    before = {name for name in names if (out / name).exists()}
    by_site = read_requests(requests, names)
    if taken := sorted(before & by_site.keys()):
        raise MedflError(f"{out / taken[0]} is there already; move that kit away, so that one for the request is made")
    shares = dealt(pipeline)
    if before and shares:
        raise MedflError(
            f"{out} holds kits already, and data are dealt to all sites at once; name a new folder with --out"
        )
    try:
        provision(out, pipeline.name, names, host, port, by_site)
    except OSError as error:
        raise MedflError(f"kits cannot be written below {out}: {error.strerror}; name another folder") from None
    if (out / SERVER / "lead").exists():
        shutil.rmtree(out / "lead")
    else:
        shutil.move(out / "lead", out / SERVER / "lead")
    party = out / SERVER / PARTY
    write_server(party, pipeline, "", None)
    write_text(party / KITS, json.dumps(sorted(names)) + "\n")
    write_software(out / SERVER, "serve", f"server of {pipeline.name}")
    _page(out / SERVER, server_page(out / SERVER, sorted(names), pipeline.name, host, port))
    key = _consortium_key(out / "authority" / KEY)
    for site in pipeline.all_sites:
        if site.name in before:
            continue
        party = out / site.name / PARTY
        write_site(party, pipeline, site, shares.get(site.name))
        own = site.name not in shares
        if own:
            write_text(party / KEY, key + "\n")
        drawn = drawn_data(pipeline.model_dump())
        data = OWN if own else DRAWN if drawn else DEALT
        write_software(out / site.name, "join", f"site {site.name} of {pipeline.name}")
        _page(out / site.name, site_page(out / site.name, site.name, data, host, port, pipeline.data.size))
    for folder in (SERVER, *names):
        _close(out / folder / PARTY)
    return [SERVER, *sorted(names)]


def _close(party: Path) -> None:
    """Keep others out of a party's folder and its files."""
    for at, _, files in os.walk(party):
        os.chmod(at, PRIVATE_FOLDER)
        for file in files:
            os.chmod(Path(at, file), PRIVATE_FILE)


def dealt(pipeline: config.Pipeline) -> Mapping[str, SitePartition]:
    """What the sites without data of their own are dealt, by name; the data of the others are not looked for."""
    sites = {
        role: [site for site in listed if not brings_own_data(pipeline, site)]
        for role, listed in (("train", pipeline.train_sites), ("held_out", pipeline.held_out_sites))
    }
    if not any(sites.values()):
        return {}
    part = pipeline.model_copy(update={"sites": pipeline.sites.model_copy(update=sites)})
    return {share.site: share for share in make_partition(part).sites}


def _consortium_key(file: Path) -> str:
    """The key under which sites hash the names of their source groups; sites have it, the server has not."""
    if not file.is_file():
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600), "w") as stream:
            stream.write(secrets.token_hex(32) + "\n")
    return file.read_text(encoding="ascii").strip()


def _page(kit: Path, text: str) -> None:
    (kit / "readme.txt").unlink(missing_ok=True)  # FLARE's own, of commands that are not needed here
    write_text(kit / "README.md", text)
