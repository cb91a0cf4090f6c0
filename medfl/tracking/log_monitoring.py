"""What `medfl monitor` finds, in MLflow: a run a site and one of all together, in their own experiment, numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medfl.errors import MedflError
from medfl.metrics.monitored import TOGETHER
from medfl.tracking.connect import artifact_location, brief, client_for, resolve_uri, shown
from medfl.tracking.log_evaluation import log_values, tracking_of
from medfl.tracking.metric_names import Values, plain
from medfl.tracking.run_metadata import origin
from medfl.tracking.sync import experiment_id


def log_monitoring(result: Mapping[str, Any], folder: Path | None = None) -> str:
    """Log a monitor.json; never raises, because the figures are still to be shown. One line for people.

    Args:
        result: of `medfl.pipeline.monitor_sites.monitor`.
        folder: run folder of the model, if it is on this machine; its tracking settings count.
    """
    try:
        tracking, recorded = tracking_of(folder)
        if not tracking.enabled:
            return "MLflow: off (`tracking.enabled: false`)"
        uri = resolve_uri(tracking, recorded.current if recorded else None)
        client, name = client_for(uri), f"{tracking.experiment}-monitoring"
        experiment = experiment_id(client, name, artifact_location(uri))
        tags = {"medfl.run": str(result["run"]), "medfl.fingerprint": str(result["fingerprint"])}
        tags |= origin(f"medfl monitor {result['run']}")
        whole = {TOGETHER: result["together"]} if result["together"] else {}
        for site, entry in (result["sites"] | whole).items():
            own = tags | {"role": "monitoring", "site": site}
            run = client.create_run(experiment, tags=own, run_name=f"{site}-{time.strftime('%Y%m%d-%H%M%S')}")
            log_values(client, run.info.run_id, monitored_values(entry))
            client.set_terminated(run.info.run_id)
    except MedflError as error:
        return f"MLflow: the monitoring is not logged ({error})"
    except Exception as error:  # whatever goes wrong here, the figures are sound
        return f"MLflow: the monitoring is not logged ({brief(error)})"
    return f"MLflow: experiment {name} at {shown(uri)}"


def monitored_values(entry: Mapping[str, Any]) -> Values:
    """A site's numbers: `alarms`, `drift/...` and `drift_of_limit/...`, `prevalence/...`, `calibration/...`."""
    values: dict[str, Any] = {"alarms": len(entry["alarms"])}
    values |= {key: entry[key] for key in ("patches", "groups", "labelled")}
    for figure, one in entry["drift"].items():
        values[f"drift/{plain(figure)}"] = one["value"] - one["reference"]
        values[f"drift_of_limit/{plain(figure)}"] = one["ratio"]
    for label, one in entry["prevalence"].items():
        values |= {f"prevalence/{plain(label)}{end}": one[key] for key, end in ENDS.items()}
    calibration = entry["calibration"] or {}
    values |= {f"calibration/{key}": calibration.get(key) for key in ("ece", "debiased_ece", "nll", "accuracy")}
    values |= {f"calibration/gap{end}": one for end, one in _gap(entry).items()}
    return {key: float(value) for key, value in values.items() if value is not None and math.isfinite(value)}


def _gap(entry: Mapping[str, Any]) -> dict[str, float]:
    gap = entry["gap"] or {}
    return {end: gap[key] for end, key in (("", "value"), ("_low", "low"), ("_high", "high")) if key in gap}


ENDS = {"called": "_called", "corrected": "", "low": "_low", "high": "_high"}
