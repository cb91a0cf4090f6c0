"""A kit for every party of a pipeline: FLARE's startup kit, the party's own files, and a page on what to do with it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from medfl import config
from medfl.data.atomic_file import write_text
from medfl.data.catalog import brings_own_data
from medfl.data.partition import SitePartition, make_partition
from medfl.engines.nvflare.provision import provision
from medfl.engines.nvflare.run_layout import check_distributed
from medfl.engines.remote.party_files import PARTY, SERVER, write_server, write_site
from medfl.engines.remote.site_endpoint import KEY
from medfl.errors import MedflError
from medfl.pipeline.build_site import check_architecture
from medfl.pipeline.model_spec import pinned
from medfl.runs.versions import versions

KITS = "kits.json"  # in the server's kit: the sites that have one
RESERVED = ("authority", "lead", SERVER)

SERVER_PAGE = """# Kit of the server, {name}

For the machine that sites reach as {host}, port {port} (TCP, inwards). Keep this folder private: it holds keys.

    pip install "medfl[nvflare]=={version}"
    medfl deploy serve . --out {name}-run

The second command waits for the sites, carries out the run, and writes the run folder. Stopped at any time, the same
command goes on where it stopped. Sites: {sites}.
"""

SITE_PAGE = """# Kit of {site}

For one machine at {site}. It calls {host}, port {port} (TCP, outwards); nothing calls it. Keep this folder private:
`startup/client.key` is this site's identity and must not be copied anywhere else.

    pip install "medfl[nvflare]=={version}"
    medfl deploy join .

Before that, {data}

The second command checks the kit, the clock, the data and the way to the server, then takes part until it is stopped.
What went wrong here is in `medfl/medfl.log`, in full; the server is told a name and no detail. `medfl/state` holds what
this site keeps between rounds; leave it until the run is over.
"""
OWN = "set `data.root` in `medfl/site.yaml` to where your data lie."
DEALT = "check `data.root` in `medfl/pipeline.yaml`: where the data of `medfl/allocation.csv` lie on this machine."
DRAWN = "nothing is to be prepared: the tissue is generated."


def make_kits(pipeline: config.Pipeline, out: Path, host: str, port: int) -> list[str]:
    """Write the kits; returns the parties, the server first. Kits that are there already are left as they are.

    Args:
        out: the folder that will hold a folder for each party, and the authority's.
        host: the name by which sites reach the server.

    Raises:
        MedflError: what `allocate` raises; a name that a kit cannot have; new kits beside old ones of dealt data; a
            network that cannot take the patches.
    """
    check_distributed(pipeline)
    pipeline = pinned(pipeline)
    names = [site.name for site in pipeline.all_sites]
    taken = sorted(set(names) & set(RESERVED))
    if taken:
        raise MedflError(f"a site is named {taken[0]}, which is the name of another folder of kits; rename the site")
    check_architecture(pipeline)
    before = {name for name in names if (out / name).exists()}
    shares = dealt(pipeline)
    if before and shares:
        raise MedflError(
            f"{out} holds kits already, and data are dealt to all sites at once; name a new folder with --out"
        )
    try:
        provision(out, pipeline.name, names, host, port)
    except OSError as error:
        raise MedflError(f"kits cannot be written below {out}: {error.strerror}; name another folder") from None
    if (out / SERVER / "lead").exists():
        shutil.rmtree(out / "lead")
    else:
        shutil.move(out / "lead", out / SERVER / "lead")
    facts = {"name": pipeline.name, "host": host, "port": port, "version": versions()["medfl"]}
    party = out / SERVER / PARTY
    write_server(party, pipeline, "", None)
    write_text(party / KITS, json.dumps(sorted(names)) + "\n")
    _page(out / SERVER, SERVER_PAGE.format(sites=", ".join(sorted(names)), **facts))
    key = _consortium_key(out / "authority" / KEY)
    for site in pipeline.all_sites:
        if site.name in before:
            continue
        party = out / site.name / PARTY
        write_site(party, pipeline, site, shares.get(site.name))
        own = site.name not in shares
        if own:
            write_text(party / KEY, key + "\n")
        drawn = pipeline.data.source == "tissue" and pipeline.data.root is None
        data = OWN if own else DRAWN if drawn else DEALT
        _page(out / site.name, SITE_PAGE.format(site=site.name, data=data, **facts))
    for folder in (SERVER, *names):
        for at, _, files in os.walk(out / folder / PARTY):
            os.chmod(at, 0o700)
            for file in files:
                os.chmod(Path(at, file), 0o600)
    return [SERVER, *sorted(names)]


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
