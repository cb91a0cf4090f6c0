"""FLARE's simulator in its own process: `python -m medfl.engines.nvflare.simulator WORKSPACE JOB SITE,SITE,...`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from medfl.engines.nvflare.job import ALLOWED


def main() -> int:
    """Run the job with one process a site; returns the simulator's exit code."""
    from nvflare.private.fed.app.simulator.simulator_runner import SimulatorRunner

    workspace, job, sites = sys.argv[1:4]
    local = Path(workspace) / "local"
    local.mkdir(parents=True, exist_ok=True)
    policy = {"format_version": 2, "class_list_enforcement_mode": "enforce", "class_allow_list": list(ALLOWED)}
    (local / "resources.json").write_text(json.dumps(policy), encoding="utf-8")
    runner = SimulatorRunner(job_folder=job, workspace=workspace, clients=sites, threads=len(sites.split(",")))
    return int(runner.run() or 0)


if __name__ == "__main__":
    sys.exit(main())
