"""README.md of a kit: how its party installs medfl, looks whether all is well, and takes part."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

from medfl.engines.nvflare.join_check import expected
from medfl.engines.nvflare.kit_software import unit
from medfl.engines.nvflare.preflight import end_of
from medfl.engines.nvflare.site_keys import KEY
from medfl.engines.own_wheel import own_wheel
from medfl.engines.remote.greeting import MUST_AGREE
from medfl.engines.remote.party_files import PARTY
from medfl.engines.remote.site_policy import SHOWN, pipeline_digest
from medfl.pipeline.machine_check import asked_python

INSTALLING = """## Install

In `software` lie this medfl, `{wheel}`, and `constraints.txt`, the versions of
everything it needs as they are where the kits were made; the server compares those of {compared}.
Do not install `medfl` from the public package index: that is another project, and this one is not there.

- Python {python} on 64-bit Linux; {python_here} where the kits were made.
- Disk: {room}.
- GPU: used if there is one. It needs NVIDIA's driver and nothing else, since the packages bring CUDA.

    python3 -m venv /opt/medfl/venv && . /opt/medfl/venv/bin/activate
    (cd software && sha256sum -c SHA256SUMS)
    pip install -c software/constraints.txt "software/{wheel}[nvflare]"

Without a GPU add `--extra-index-url https://download.pytorch.org/whl/cpu` to the last line.

### Without a network

On a machine with one, of the same system and Python, make a wheelhouse and the digests of all that is in it:

    pip wheel -w wheelhouse -c software/constraints.txt "software/{wheel}[nvflare]"
    (cd wheelhouse && sha256sum *) > wheelhouse.sha256

It is `pip wheel` and not `pip download`: a package that comes as source only (pyhocon, which FLARE needs) cannot be
built where there is no network. One party can do this for all, and tell the others `wheelhouse.sha256` another way than
it sends the folder. Then, here:

    (cd wheelhouse && sha256sum -c ../wheelhouse.sha256)
    pip install --no-index --find-links wheelhouse -c software/constraints.txt "software/{wheel}[nvflare]"
"""

ENDING = """## What not to run

Do not run FLARE's `startup/start.sh`, or another script of that folder: it starts FLARE without what medfl looks at
first. The commands above start FLARE themselves.

## As a service

`software/{unit}` is a unit for systemd; it takes this kit to lie in `/opt/medfl/kit` and to belong to a user
`medfl`.

    sudo cp software/{unit} /etc/systemd/system/ && sudo systemctl enable --now {unit}
    journalctl -fu {unit}

## Until when

The certificate of this kit ends on {ends}. Ask for a new kit before; with it the run goes on where it was.
"""

SERVER_PAGE = """# Kit of the server, {name}

For the machine that sites reach as {host}, port {port} (TCP, inwards). Keep this folder private: it holds keys.

{installing}
## Run

    medfl deploy serve . --out {name}-run

The command waits for the sites, carries out the run, and writes the run folder. Stopped at any time, the same
command goes on where it stopped. Sites: {sites}.

{ending}"""

SITE_PAGE = """# Kit of {site}

For one machine at {site}. It calls {host}, port {port} (TCP, outwards); nothing calls it. Keep this folder private:
`startup/client.key` is this site's identity and must not be copied anywhere else.

{installing}
## Take part

{key}Before it, {data}

    medfl deploy join . --check
    medfl deploy join .
    medfl deploy join . --approve {digest}

The first looks at everything that can be looked at without taking part. It ends with status 0 where all is well, and
then prints lines like these:

{expected}

A line that begins with `FAILED` says what to do. Until the pipeline is approved and the server runs, the last two are
of that kind.

The second command says in words what this kit's pipeline would do with your data, and ends: nothing runs here before
somebody at {site} has approved it. The third approves that very pipeline, by its digest, and takes part; from then on
the second does. A `medfl/policy.yaml` of your own can set limits, or approve by rules (docs/deployment.md).

Taking part checks the kit, the clock, the data and the way to the server, then goes on until it is stopped. What went
wrong here is in `medfl/medfl.log`, in full; the server is told a name and no detail. What was asked and what left is in
`medfl/audit.jsonl`: `medfl audit show .` prints it, `medfl audit verify .` tells whether it is whole. `medfl/state`
holds what this site keeps between rounds; leave it until the run is over.

### Behind a proxy

The way to the server is one TCP connection with mutual TLS. A proxy that opens TLS breaks it, and a proxy for web pages
does not carry it: ask for a direct way out to {host}, port {port}. Where `https_proxy` is set,
put {host} into `no_proxy`. Packages may come through a proxy, with `pip install --proxy URL`.

{ending}"""

KEYLESS = """This kit holds no key, since {site} made its own: put the `{site}.key` that `medfl deploy request` wrote
beside this folder, and the first command below takes it into `startup/client.key`.

"""
OWN = "set `data.root` in `medfl/site.yaml` to where your data lie."
DEALT = "check `data.root` in `medfl/pipeline.yaml`: where the data of `medfl/allocation.csv` lie on this machine."
DRAWN = "nothing is to be prepared: the data are generated."


def server_page(kit: Path, sites: Sequence[str], name: str, host: str, port: int) -> str:
    """The page of the server's kit.

    Args:
        kit: the kit, with its certificate and software.
        name: of the pipeline.
        host, port: how sites reach the server.
    """
    return SERVER_PAGE.format(
        name=name,
        host=host,
        port=port,
        sites=", ".join(sites),
        installing=_installing("the run folder, a few times the model's size"),
        ending=_ending(kit, "server", "serve"),
    )


def site_page(kit: Path, site: str, data: str, host: str, port: int, size: int) -> str:
    """The page of a site's kit. `data` says what is to be done about its data, `size` is pixels a side of a patch."""
    return SITE_PAGE.format(
        site=site,
        host=host,
        port=port,
        digest=pipeline_digest(kit / PARTY)[:SHOWN],
        data=data,
        key="" if (kit / "startup" / KEY).is_file() else KEYLESS.format(site=site),
        installing=_installing(f"{3 * size**2 / 1000:,.0f} MB in MEDFL_CACHE for every 1,000 patches"),
        expected="\n".join(f"    {line}" for line in expected(kit, site, f"{host}:{port}")),
        ending=_ending(kit, "client", "join"),
    )


def _ending(kit: Path, kind: str, command: str) -> str:
    return ENDING.format(unit=unit(command), ends=f"{end_of(kit, kind):%Y-%m-%d}")


def _installing(room: str) -> str:
    *names, last = MUST_AGREE
    return INSTALLING.format(
        wheel=own_wheel()[0],
        compared=f"{', '.join(names)} and {last}",
        python=asked_python(),
        python_here=platform.python_version(),
        room=f"7 GB for the packages (2 GB without CUDA), and {room}",
    )
