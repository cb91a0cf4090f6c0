"""Two runs on the same held-out patches: which model is better, and how sure that is.

Both models are measured here and now on the test data of the held-out sites, patch by patch, so that what is hard for
both cancels out; that is what two tables with an interval each cannot do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfl.data.partition import Partition, make_partition
from medfl.data.render import render
from medfl.data.stained_store import in_stain
from medfl.errors import MedflError
from medfl.metrics.delong import class_table
from medfl.metrics.figures import figure
from medfl.metrics.group_support import FEW_GROUPS, GroupSupport, group_support
from medfl.metrics.paired_figures import PairedFigure, mean_of_sites, paired_figures
from medfl.pipeline.build_site import build_site
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.trained_model import TrainedModel, find_model
from medfl.runs.data_record import changed_sites, check_data, read_rows
from medfl.runs.folder import RunFolder
from medfl.site.measurement import probabilities

LABELS = {"sensitivity": "sensitivity for malignant", "specificity": "specificity for malignant"}
MEAN = "mean of the sites"


@dataclass(frozen=True)
class ScoredSite:
    """What a model says of the test patches of a held-out site.

    Attributes:
        names: of the patches, in their order.
        labels: true classes i64[N].
        groups: source groups, numbered from 0, i64[N].
        probs: calibrated probabilities f64[N, C].
        min_count: the least source groups of which anything is told.
    """

    names: tuple[str, ...]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    probs: NDArray[np.float64]
    min_count: int

    def same_patches(self, other: ScoredSite) -> bool:
        """Whether another model was shown the same patches, in their order."""
        return self.names == other.names and np.array_equal(self.labels, other.labels)

    @property
    def support(self) -> GroupSupport:
        """How many source groups are behind each class."""
        return group_support(self.labels, self.groups, int(self.groups.max()) + 1, self.probs.shape[1])

    @property
    def table(self) -> NDArray[np.int64]:
        """Patches of each source group and class, [G, C]."""
        return class_table(self.labels, self.groups, int(self.groups.max()) + 1, self.probs.shape[1])


def compare_runs(one: Path | str, other: Path | str) -> dict[str, Any]:
    """The figures of two runs at the held-out sites, and their paired differences, ready for JSON.

    Returns:
        {"one", "other": names of the runs, "sites": {site: {"n", "n_groups", "few_groups", "figures": {key: {"one",
        "other", "difference", "ci", "p"}}}}, "mean": {"few_groups", "figures"}, "leaky", "withheld": sites of too few
        source groups to tell anything of}. A p is two-sided, of a t test over source groups, and None with few groups.

    Raises:
        MedflError: a run is not finished or has no global model or no held-out sites; the two do not hold out the same
            sites with the same data, or classes differ; data that have changed since.
    """
    folders = [RunFolder.open(path) for path in (one, other)]
    _check_alike(*folders)
    models = [find_model(str(path)) for path in (one, other)]
    classes = [tuple(model.facts["classes"]) for model in models]
    if classes[0] != classes[1]:
        raise MedflError(
            f"{one} and {other} cannot be compared: `task.classes` are {', '.join(classes[0])} and "
            f"{', '.join(classes[1])}"
        )
    scored = [scored_sites(model, folder) for model, folder in zip(models, folders, strict=True)]
    sites, lines, withheld = {}, [], []
    for name, first in sorted(scored[0].items()):
        second = scored[1][name]
        if not first.same_patches(second):
            raise MedflError(f"{one} and {other} cannot be compared: they do not test the same patches at site {name}")
        support = first.support
        if support.n_groups < max(first.min_count, second.min_count):
            withheld.append(name)
            continue
        figures = paired_site((first, second), (models[0].facts, models[1].facts))
        lines.append(figures)
        sites[name] = {
            "n": len(first.names),
            "n_groups": support.n_groups,
            "few_groups": support.few(),
            "figures": _entries(figures, support.few()),
        }
    few = any(site["few_groups"] for site in sites.values())
    common = [key for key in (lines[0] if lines else {}) if all(key in figures for figures in lines)]
    means = {key: mean_of_sites([figures[key] for figures in lines]) for key in common}
    return {
        "one": folders[0].path.name,
        "other": folders[1].path.name,
        "sites": sites,
        "mean": {"few_groups": few, "figures": _entries(means, few)} if len(sites) > 1 else None,
        "leaky": any(folder.read_summary()["leaky"] for folder in folders),
        "withheld": withheld,
    }


def label(key: str) -> str:
    """What a figure of a comparison is called."""
    return LABELS.get(key) or figure(key).label


def verdict(result: Mapping[str, Any]) -> str:
    """One sentence: whether the AUROC at held-out sites differs, as far as these groups can tell."""
    where, entry = (MEAN, result["mean"]) if result["mean"] else next(iter(result["sites"].items()), ("", None))
    auroc = entry["figures"].get("auroc") if entry else None
    if entry is None or auroc is None or auroc["ci"] is None:
        return "AUROC: nothing is known of how its difference varies, so neither run is said to be better"
    if entry["few_groups"]:
        return (
            f"AUROC: too few source groups (below {FEW_GROUPS} behind a class) to say that one run is better; the "
            f"difference is {auroc['difference']:+.3f}"
        )
    low, high = auroc["ci"]
    place = "over the held-out sites" if where == MEAN else f"at {where}"
    if low <= 0 <= high:
        return f"AUROC {place}: no difference shown ({auroc['difference']:+.3f} [{low:+.3f}, {high:+.3f}])"
    better = result["one"] if low > 0 else result["other"]
    return f"AUROC {place}: {better} is better ({auroc['difference']:+.3f} [{low:+.3f}, {high:+.3f}])"


def _check_alike(one: RunFolder, other: RunFolder) -> None:
    """Raise MedflError unless the two runs note the same held-out sites and the same data there."""
    rows = [[row for row in read_rows(run.allocation_summary) if row["role"] == "held_out"] for run in (one, other)]
    names = [sorted({row["site"] for row in own}) for own in rows]
    start = f"{one.path} and {other.path} cannot be compared"
    if names[0] != names[1] or not names[0]:
        names_held = " and ".join(", ".join(own) or "no site" for own in names)
        raise MedflError(f"{start}: they hold out {names_held}; both must be measured at the same sites")
    if changed := changed_sites(*rows):
        raise MedflError(f"{start}: the held-out data of {', '.join(changed)} differ between the two runs")


def scored_sites(model: TrainedModel, folder: RunFolder) -> dict[str, ScoredSite]:
    """The test patches of the run's held-out sites, and what its model says of them.

    Raises:
        MedflError: data that have changed since.
    """
    pipeline = load_pipeline(folder.pipeline)
    sites = {site.name: site for site in pipeline.held_out_sites}
    shares = tuple(share for share in make_partition(pipeline).sites if share.site in sites)
    check_data(folder, Partition(shares), pipeline.cache_dir)
    bench, weights, buffers = model.load()
    scored = {}
    for share in shares:
        store = in_stain(render(pipeline, sites[share.site], share), model.stain_reference)
        here = build_site(pipeline, sites[share.site], store, bench)
        rows = store.splits["test"]
        probs = probabilities(here.evaluator.logits(weights, buffers, "test"), model.calibration)
        groups = np.unique(store.groups[rows], return_inverse=True)[1].astype(np.int64)
        names = tuple(store.names[row] for row in rows)
        scored[share.site] = ScoredSite(names, store.labels[rows], groups, probs, pipeline.min_count(sites[share.site]))
    return scored


def paired_site(
    sites: tuple[ScoredSite, ScoredSite], facts: tuple[Mapping[str, Any], Mapping[str, Any]]
) -> dict[str, PairedFigure]:
    """Figures of two models on the same patches of a site, whose model.json holds these facts; those for malignant only
    where both mean the same classes by it."""
    one, other = sites
    same_question = facts[0].get("malignant") == facts[1].get("malignant")
    return paired_figures(
        (one.probs, other.probs),
        one.labels,
        one.groups,
        facts[0]["classes"],
        tuple(facts[0].get("malignant") or ()) if same_question else (),
        (facts[0].get("thresholds"), facts[1].get("thresholds")),
    )


def _entries(figures: Mapping[str, PairedFigure], few: bool) -> dict[str, dict[str, Any]]:
    entries = {}
    for key, pair in figures.items():
        interval = pair.interval()
        entries[key] = {
            "one": pair.one,
            "other": pair.other,
            "difference": pair.difference,
            "ci": None if interval is None else list(interval),
            "p": None if few else _p(pair),
        }
    return entries


def _p(pair: PairedFigure) -> float | None:
    if pair.se is None or pair.df is None:
        return None
    from scipy.special import stdtr

    return float(2 * stdtr(max(pair.df, 1.0), -abs(pair.difference) / pair.se))
