"""What FLARE's process of a party may load and do, as every kit states it, and whether a kit states that and no more.

FLARE builds whatever class the files of a kit name, with any arguments. Those files are signed by whoever made the kit,
which says who wrote them and not that they are harmless; so they are compared with what medfl itself writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medfl.engines.nvflare.job import ALLOWED

AUTHORIZATION = {
    "format_version": "1.0",
    "permissions": {
        "project_admin": {"submit_job": "any", "manage_job": "any", "view": "any", "operate": "any"},
    },
}
POLICY = {"format_version": 2, "class_list_enforcement_mode": "enforce", "class_allow_list": list(ALLOWED)}
LOGGERS = (
    "nvflare.fuel.utils.log_utils.BaseFormatter",
    "nvflare.fuel.utils.log_utils.ColorFormatter",
    "nvflare.fuel.utils.log_utils.JsonFormatter",
    "nvflare.fuel.utils.log_utils.LoggerNameFilter",
    "logging.StreamHandler",
    "logging.handlers.RotatingFileHandler",
)
"""The classes that the settings of FLARE's logs name."""
LOCAL = ("authorization.json.default", "log_config.json.default", "privacy.json.sample", "signature.json")
"""Files of `local` beside the two that medfl writes; FLARE reads the second."""
WRITTEN = ("local/resources.json", "local/authorization.json", "local/log_config.json.default", "startup/fed_{}.json")
"""Files without which FLARE does not start a kit, below it; {} is its kind."""
STARTUP = ("format_version", "servers", "client")
NAMING = ("path", "class_path", "class", "name_path", "args", "components", "()", "handlers", "executors")
"""Keys by which FLARE's files name what is built."""


def resources(kind: str, kit: Path) -> dict[str, Any]:
    """`local/resources.json` of a "client" or the "server", whose FLARE stores what it keeps inside the kit."""
    return _client() if kind == "client" else _server(str(kit))


def foreign(kit: Path, kind: str) -> str | None:
    """The first file of a kit's `local` or `startup` that is not as medfl writes it, below the kit; None for none."""
    local, startup = kit / "local", kit / "startup"
    for file in sorted(local.iterdir()):
        if file.name not in ("resources.json", "authorization.json", *LOCAL) or not _regular(file):
            return f"local/{file.name}"
    resources = _read(local / "resources.json")
    if resources != (_client() if kind == "client" else _server(_root(resources))):
        return "local/resources.json"
    if _read(local / "authorization.json") != AUTHORIZATION:
        return "local/authorization.json"
    logs = _read(local / "log_config.json.default")
    if not isinstance(logs, dict) or not _plain_logs(logs):
        return "local/log_config.json.default"
    for file in sorted(startup.iterdir()):
        if not _regular(file) or file.suffix == ".py":
            return f"startup/{file.name}"
    name = f"fed_{kind}.json"
    facts = _read(startup / name)
    if not isinstance(facts, dict) or not facts.keys() <= set(STARTUP) or any(k in NAMING for k, _ in _entries(facts)):
        return f"startup/{name}"
    return None


def _client() -> dict[str, Any]:
    part = "nvflare.app_common"
    return POLICY | {
        "allow_log_streaming": False,
        "client": {"retry_timeout": 30, "compression": "Gzip"},
        "components": [
            {
                "id": "resource_manager",
                "path": f"{part}.resource_managers.gpu_resource_manager.GPUResourceManager",
                "args": {"num_of_gpus": 0, "mem_per_gpu_in_GiB": 0, "expiration_period": 300},
            },
            {
                "id": "resource_consumer",
                "path": f"{part}.resource_consumers.gpu_resource_consumer.GPUResourceConsumer",
                "args": {},
            },
            {
                "id": "process_launcher",
                "path": f"{part}.job_launcher.client_process_launcher.ClientProcessJobLauncher",
                "args": {},
            },
        ],
    }


def _server(root: str) -> dict[str, Any]:
    storage = "nvflare.app_common.storages.filesystem_storage.FilesystemStorage"
    return POLICY | {
        "servers": [
            {
                "admin_storage": "transfer",
                "max_num_clients": 100,
                "heart_beat_timeout": 600,
                "download_job_url": "http://download.server.com/",
                "admin_timeout": 10.0,
            }
        ],
        "snapshot_persistor": {
            "path": "nvflare.app_common.state_persistors.storage_state_persistor.StorageStatePersistor",
            "args": {
                "uri_root": "/",
                "storage": {"path": storage, "args": {"root_dir": str(Path(root, "snapshots")), "uri_root": "/"}},
            },
        },
        "components": [
            {
                "id": "job_scheduler",
                "path": "nvflare.app_common.job_schedulers.job_scheduler.DefaultJobScheduler",
                "args": {"max_jobs": 1, "min_schedule_interval": 2.0},
            },
            {
                "id": "job_manager",
                "path": "nvflare.apis.impl.job_def_manager.SimpleJobDefManager",
                "args": {"uri_root": str(Path(root, "jobs")), "job_store_id": "job_store"},
            },
            {"id": "job_store", "path": storage},
            {
                "id": "process_launcher",
                "path": "nvflare.app_common.job_launcher.server_process_launcher.ServerProcessJobLauncher",
                "args": {},
            },
        ],
    }


def _root(value: Any) -> str:
    """Where a server's policy says that its kit lay; it is written anew at every start."""
    try:
        return str(Path(value["snapshot_persistor"]["args"]["storage"]["args"]["root_dir"]).parent)
    except (TypeError, KeyError):
        return ""


def _plain_logs(logs: dict[str, Any]) -> bool:
    """Whether the settings of logs name FLARE's own classes, and files without a folder."""
    for key, value in _entries(logs):
        if key in ("()", "class") and value not in LOGGERS:
            return False
        if isinstance(value, str) and "://" in value and value != "ext://sys.stdout":
            return False
        if key == "filename" and (not isinstance(value, str) or "/" in value or "\\" in value):
            return False
    return True


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Every (key, value) at any depth; a value of a list has its list's key ""."""
    parts = value.items() if isinstance(value, dict) else (("", part) for part in value)
    for key, part in parts:
        yield key, part
        if isinstance(part, dict | list):
            yield from _entries(part)


def _regular(file: Path) -> bool:
    return file.is_file() and not file.is_symlink()


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
