"""The software in a kit: the medfl that made it, the versions of what it needs, their digests, and a service unit.

software/medfl_pathology-<version>-py3-none-any.whl    this medfl
         constraints.txt                               name==version of all that it needs, as installed here
         medfl-join.service, medfl-serve.service       for systemd, as the party needs
         SHA256SUMS                                    of these files
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from medfl.engines.own_wheel import own_wheel, pinned_requirements
from medfl.errors import DISTRIBUTION

SOFTWARE, CONSTRAINTS, SUMS = "software", "constraints.txt", "SHA256SUMS"
EXTRA = "nvflare"
UNIT = """[Unit]
Description=medfl, {what}
After=network-online.target
Wants=network-online.target

[Service]
User=medfl
WorkingDirectory=/opt/medfl
Environment=MEDFL_CACHE=/opt/medfl/cache
ExecStart=/opt/medfl/venv/bin/medfl deploy {command}
KillSignal=SIGINT
SuccessExitStatus=130
TimeoutStopSec=60
Restart=on-failure
RestartSec=60
NoNewPrivileges=yes
PrivateTmp=yes

[Install]
WantedBy=multi-user.target
"""
COMMANDS = {"join": "join /opt/medfl/kit", "serve": "serve /opt/medfl/kit --out /opt/medfl/run"}


def write_software(kit: Path, command: str, what: str) -> None:
    """Write the folder into a kit whose party gives `command`, "join" or "serve"; `what` describes the party.

    Raises:
        MedflError: no wheel can be made of the medfl that runs here.
    """
    folder = kit / SOFTWARE
    folder.mkdir(mode=0o700, exist_ok=True)
    wheel, content = own_wheel()
    head = f"# {DISTRIBUTION} and what it needs, as installed where the kits were made.\n"
    pins = "".join(f"{name}=={version}\n" for name, version in pinned_requirements(EXTRA).items())
    texts = {
        CONSTRAINTS: head + pins,
        unit(command): UNIT.format(what=what, command=COMMANDS[command]),
    }
    files = {wheel: content} | {name: text.encode() for name, text in texts.items()}
    files[SUMS] = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items()).encode()
    for name, data in files.items():
        (folder / name).write_bytes(data)
        (folder / name).chmod(0o600)


def unit(command: str) -> str:
    """The name of a party's service unit."""
    return f"medfl-{command}.service"


def constraints(kit: Path) -> dict[str, str]:
    """Name -> version of what the makers of a kit had installed; empty where the kit does not say."""
    try:
        lines = (kit / SOFTWARE / CONSTRAINTS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    return dict(line.split("==", 1) for line in lines if "==" in line and not line.startswith("#"))
