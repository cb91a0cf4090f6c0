"""The site signature of a run whose sites are all in this process."""

from __future__ import annotations

from typing import Any

import numpy as np

from medfl.metrics.site_signature import site_signature
from medfl.pipeline.final_evaluation import SelectedModel
from medfl.pipeline.prepare import RunSetup
from medfl.seeds import seed_for

MOST = 1000
"""Test patches of a site that are looked at, drawn by the run's seed."""


def feature_signature(setup: RunSetup, selected: SelectedModel) -> dict[str, Any] | None:
    """How well a site is told from the model's features of test patches, as `summary.json` has it.

    A probe needs the features of all sites in one place. Those of a site in a process of its own never leave it, so
    over an engine there is no such figure.
    """
    if len(setup.sites) < max(2, len(setup.roles)) or not setup.shared.model.gives_features:
        return None
    seed = seed_for(setup.pipeline.seed, "signature")
    features, labels, groups, sites = [], [], [], []
    for number, name in enumerate(sorted(setup.sites)):
        site = setup.sites[name]
        rows = site.store.splits["test"]
        if len(rows) > MOST:
            rows = np.sort(np.random.default_rng([seed, number]).choice(rows, MOST, replace=False))
        if not len(rows):
            continue
        features.append(site.evaluator.features(selected.weights, selected.buffers, rows).numpy())
        labels.append(site.store.labels[rows])
        groups.append(site.store.groups[rows])
        sites.append(np.full(len(rows), number, dtype=np.int64))
    if not features:
        return None
    signature = site_signature(
        np.concatenate(features),
        np.concatenate(sites),
        np.concatenate(labels),
        np.concatenate(groups),
        seed,
        setup.pipeline.disclosure.min_count,
    )
    return {
        "balanced_accuracy": signature.balanced_accuracy,
        "chance": signature.chance,
        "sites": len(signature.sites),
        "classes": len(signature.classes),
        "reason": signature.reason,
    }
