"""The job that FLARE is handed: names of classes and numbers. It carries no code, and a site would refuse code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CONTROLLER = "nvflare.collab.runtime.controller.CollabController"
EXECUTOR = "nvflare.collab.runtime.executor.CollabExecutor"
SERVER_APP = "medfl.engines.nvflare.flare_app.ServerApp"
SITE_APP = "medfl.engines.nvflare.flare_app.SiteApp"
ALLOWED = (CONTROLLER, EXECUTOR, SERVER_APP, SITE_APP)  # the classes that a party lets a job name, and no others
SYNC = 300.0  # seconds a site has to start its process of a job
PATIENCE = 6 * 3600.0  # seconds a site has to render its patches, at its first words


def write_job(folder: Path, run: str, timeout: float, sites: int) -> Path:
    """Write the job's folder below `folder`; returns it.

    Args:
        run: the run's identity.
        timeout: seconds that a site has for one message.
        sites: how many sites have to be there.
    """
    job = folder / "medfl"
    (job / "app" / "config").mkdir(parents=True, exist_ok=True)
    meta = {
        "name": "medfl",
        "resource_spec": {},
        "min_clients": sites,
        "mandatory_clients": [],
        "deploy_map": {"app": ["@ALL"]},
    }
    server = {
        "format_version": 2,
        "workflows": [_part("controller", CONTROLLER, _controller(sites))],
        "components": [_part("_server", SERVER_APP, _numbers(run, timeout))],
    }
    executor = {
        "path": EXECUTOR,
        "args": {"client_obj_id": "_client", "max_call_threads": 4},
    }
    client = {
        "format_version": 2,
        "executors": [{"tasks": ["*"], "executor": executor}],
        "components": [_part("_client", SITE_APP, {})],
    }
    _write(job / "meta.json", meta)
    _write(job / "app" / "config" / "config_fed_server.json", server)
    _write(job / "app" / "config" / "config_fed_client.json", client)
    return job


def _controller(sites: int) -> dict[str, Any]:
    return {"server_obj_id": "_server", "sync_task_timeout": SYNC, "max_call_threads": max(4, sites + 2)}


def _numbers(run: str, timeout: float) -> dict[str, Any]:
    return {"run": run, "timeout": timeout, "patience": max(PATIENCE, timeout)}


def _part(name: str, path: str, args: dict[str, Any]) -> dict[str, Any]:
    return {"id": name, "path": path, "args": args}


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
