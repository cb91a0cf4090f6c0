"""What new patches are compared with: the sums that a run kept in model.json, or those of an earlier monitoring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medfl.errors import MedflError
from medfl.metrics.auroc import FloatArray
from medfl.metrics.drift import Moments
from medfl.metrics.monitored import from_lists
from medfl.pipeline.final_evaluation import Measured
from medfl.pipeline.monitor_sums import same_model
from medfl.pipeline.trained_model import TrainedModel
from medfl.runs.records import read_json


@dataclass(frozen=True)
class MonitorReference:
    """The sums of each site, by figure, and the confusion matrix of all of them together.

    Attributes:
        name: where the sums are from, for people.
        sites: site -> figure -> its sums; empty where nothing was kept.
        confusion: patches by true and predicted class [C, C], of the run's test data.
        class_groups: source groups behind each of its rows, [C].
    """

    name: str
    sites: Mapping[str, Mapping[str, Moments]]
    confusion: FloatArray
    class_groups: FloatArray

    def of(self, site: str, figure: str) -> tuple[list[Moments], bool]:
        """What a site's figure is compared with, and whether these are other sites, of which there are several."""
        if figure in self.sites.get(site, {}):
            return [self.sites[site][figure]], False
        others = [own[figure] for own in self.sites.values() if figure in own]
        return others, len(others) > 1


def monitoring_facts(measured: Measured) -> dict[str, Any]:
    """`monitoring` of model.json, from the test data of a run's sites."""
    moments = {site: sums["monitoring"] for site, sums in measured.sums.items() if sums.get("monitoring")}
    return {"sites": {site: moments[site] for site in sorted(moments)}, **_errors(measured.sites)}


def _errors(sites: Mapping[str, Any]) -> dict[str, Any]:
    """The confusion matrix of all sites' test data, and the source groups behind its rows; withheld counts are 0."""
    tables = [np.array([[count or 0 for count in row] for row in own["confusion"]]) for own in sites.values()]
    groups = [[entry["groups"] or 0 for entry in own["support"].values()] for own in sites.values()]
    return {"confusion": np.add.reduce(tables).tolist(), "class_groups": np.add.reduce(groups).tolist()}


def monitor_reference(model: TrainedModel, baseline: Path | None) -> MonitorReference:
    """The reference of a model; `baseline` is the monitor.json of an earlier monitoring, which takes its place but for
    the classifier's errors. Raises MedflError where a file does not say it, or is of another model."""
    facts, classes = model.facts, model.facts["classes"]
    kept, name, place = facts.get("monitoring"), f"run {facts['run']}", model.directory / "model.json"
    errors = kept
    if errors is None and model.run is not None and model.run.summary.is_file():
        errors = _errors(model.run.read_summary()["sites"])
    try:
        confusion, groups = (
            np.array((errors or {}).get(key, []), dtype=np.float64) for key in ("confusion", "class_groups")
        )
        if errors is None:
            confusion, groups = np.zeros((len(classes), len(classes))), np.zeros(len(classes))
        if confusion.shape != (len(classes), len(classes)) or groups.shape != (len(classes),) or confusion.min() < 0:
            raise ValueError("`confusion` is of other classes")
        parts = (kept or {}).get("sites", {})
        if baseline is not None:
            place, earlier = baseline, read_json(baseline)
            if not same_model(earlier, facts):
                raise MedflError(
                    f"--baseline: {baseline} is of another model; monitor this one once, and take that file"
                )
            parts, name = {site: own["sums"]["moments"] for site, own in earlier["sites"].items()}, str(baseline)
        sites = {site: from_lists(own, classes) for site, own in parts.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise MedflError(
            f"{place}: its sums for monitoring cannot be read ({error}); take the file as written"
        ) from None
    return MonitorReference(name, sites, confusion, groups)
