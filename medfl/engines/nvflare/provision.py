"""Startup kits: one for the server, one for each site, one for whoever starts runs; all know one authority.

    OUT/server, OUT/<site>, OUT/lead     FLARE's startup kits (keys 0600), each with the policy of its party
    OUT/authority                        the key that signs certificates; whoever holds it can admit a site

A site's policy lets a job name the classes of `medfl.engines.nvflare.job.ALLOWED` and nothing else: no code from
elsewhere, no shell commands, no streaming of its logs to the server.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from nvflare.lighter.constants import CtxKey
from nvflare.lighter.entity import Participant, Project
from nvflare.lighter.impl.cert import CertBuilder
from nvflare.lighter.impl.static_file import StaticFileBuilder
from nvflare.lighter.impl.workspace import WorkspaceBuilder
from nvflare.lighter.provisioner import Provisioner
from nvflare.lighter.utils import sign_folders, verify_folder_signature

from medfl.engines.nvflare import kit_policy
from medfl.engines.nvflare.site_keys import KEY, Requests, certify

LEAD, ORG = "lead@medfl.org", "medfl"
AUTHORITY = ("rootCA.pem", "rootCA.key")
AUTHORITY_DAYS = 3600
TEMPLATE, SIGNATURE = "master_template.yml", "signature.json"


class Quiet:
    """Takes what the provisioner says."""

    def info(self, text: str) -> None:
        """Nothing."""

    debug = warning = error = info


def provision(
    out: Path, name: str, sites: Sequence[str], host: str, port: int, requests: Requests | None = None
) -> None:
    """Write kits for a server that sites reach at host:port; an authority that is there already signs again.

    Args:
        out: where the kits go, one folder a party; a folder that exists is left as it is.
        name: the project's.
        requests: of sites that make their keys themselves, and whose new kits then hold none.
    """
    out.mkdir(parents=True, exist_ok=True)
    people = [
        Participant("server", "server", ORG, _listening(host, port)),
        *(Participant("client", site, ORG, {"allow_log_streaming": False}) for site in sites),
        Participant("admin", LEAD, ORG, {"role": "project_admin"}),
    ]
    certificate, key = _authority(out / "authority")
    # In a folder of its own: what the provisioner keeps of its work holds every party's private key.
    with tempfile.TemporaryDirectory(dir=out, prefix=".making-") as scratch:
        project = Project(name, "", people, serialized_root_cert=certificate, root_private_key=key)
        builders = [
            WorkspaceBuilder([TEMPLATE]),
            StaticFileBuilder(config_folder="config"),
            CertBuilder(root_valid_days=3600),
        ]
        made = Provisioner(scratch, builders).provision(project, logger=Quiet())
        if made.get(CtxKey.BUILD_ERROR):
            raise RuntimeError("kits could not be made")
        kits = Path(made[CtxKey.CURRENT_PROD_DIR])
        _keep_authority(out / "authority", made)
        for person in people:
            folder = "lead" if person.name == LEAD else person.name
            if not (out / folder).exists():
                if request := (requests or {}).get(person.name):
                    certify(kits / person.name, request, made[CtxKey.ROOT_PRI_KEY])
                _restrict(kits / person.name, person.type, made[CtxKey.ROOT_PRI_KEY], host == "localhost")
                shutil.move(kits / person.name, out / folder)


def _listening(host: str, port: int) -> dict[str, Any]:
    """How the server is reached; its lead is on the same machine."""
    facts: dict[str, Any] = {"fed_learn_port": port, "admin_port": port, "default_host": host}
    return facts if host == "localhost" else facts | {"host_names": ["localhost"]}


def _restrict(kit: Path, kind: str, key: Any, loopback: bool) -> None:
    """A kit's policy, the authority's signature on both, and nobody else's eyes on it."""
    local = kit / "local"
    if kind != "admin":
        _write(local / "resources.json", kit_policy.resources(kind, kit))
        (local / "resources.json.default").unlink()
        _write(local / "authorization.json", kit_policy.AUTHORIZATION)
    if kind == "server" and loopback:  # FLARE listens on the loopback device alone where the target is there
        config_file = kit / "startup" / "fed_server.json"
        facts = json.loads(config_file.read_text(encoding="utf-8"))
        for server in facts["servers"]:
            server["service"]["target"] = f"localhost:{server['admin_port']}"
        _write(config_file, facts)
    if kind == "admin":
        config_file = kit / "startup" / "fed_admin.json"
        lead = json.loads(config_file.read_text(encoding="utf-8"))
        lead["admin"]["host"] = "localhost"
        _write(config_file, lead)
    sign_folders(kit / "startup", key, signature_file=SIGNATURE)
    if kind == "client":  # the server's is completed where it runs
        sign_folders(local, key, signature_file=SIGNATURE)
    for at, _, files in os.walk(kit):
        os.chmod(at, 0o700)
        for file in files:
            os.chmod(Path(at, file), 0o700 if file.endswith(".sh") else 0o600)


def place_server(kit: Path) -> None:
    """Write a server's policy anew: what FLARE stores lies inside its kit, wherever that lies now."""
    _write(kit / "local" / "resources.json", kit_policy.resources("server", kit.resolve()))


def intact(kit: Path, folder: str) -> bool:
    """Whether a folder of a kit is as the authority signed it."""
    root = kit / "startup" / "rootCA.pem"
    if folder != "startup" or _signs_key(kit):
        return bool(verify_folder_signature(kit / folder, root, True, SIGNATURE))
    with tempfile.TemporaryDirectory() as scratch:  # the rest, without the key that the site put in
        rest = shutil.copytree(kit / folder, Path(scratch, folder), symlinks=True, ignore=shutil.ignore_patterns(KEY))
        return bool(verify_folder_signature(rest, root, True, SIGNATURE))


def _signs_key(kit: Path) -> bool:
    """Whether the signatures of a kit say that its key came with it."""
    try:
        return KEY in json.loads((kit / "startup" / SIGNATURE).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return True


def _authority(folder: Path) -> tuple[bytes | None, Any]:
    """The certificate and key of an authority made before; None where there is none yet."""
    if not (folder / AUTHORITY[1]).is_file():
        return None, None
    key = serialization.load_pem_private_key((folder / AUTHORITY[1]).read_bytes(), password=None)
    return (folder / AUTHORITY[0]).read_bytes(), key


def _keep_authority(folder: Path, made: Any) -> None:
    if (folder / AUTHORITY[1]).is_file():
        return
    folder.mkdir(mode=0o700, exist_ok=True)
    pem = serialization.Encoding.PEM
    key = made[CtxKey.ROOT_PRI_KEY].private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / AUTHORITY[0]).write_bytes(made[CtxKey.ROOT_CERT].public_bytes(pem))
    with os.fdopen(os.open(folder / AUTHORITY[1], os.O_WRONLY | os.O_CREAT, 0o600), "wb") as stream:
        stream.write(key)


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
