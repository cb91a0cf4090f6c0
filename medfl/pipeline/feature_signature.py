"""The site signature of a run whose sites are all in this process and whose features are kept."""

from __future__ import annotations

from typing import Any

import numpy as np

from medfl.metrics.site_signature import site_signature
from medfl.pipeline.prepare import RunSetup
from medfl.seeds import seed_for
from medfl.site.feature_batches import FeatureBatches


def feature_signature(setup: RunSetup) -> dict[str, Any] | None:
    """How well a site is told from the frozen network's features of test patches, as `summary.json` has it.

    A probe needs the features of all sites in one place. Those of a site in a process of its own never leave it, so
    over an engine there is no such figure; nor where features are not kept, as when the network trains.
    """
    kept = {name: site for name, site in setup.sites.items() if isinstance(site.batches, FeatureBatches)}
    if len(kept) < len(setup.roles) or len(kept) < 2:
        return None
    features, labels, groups, sites = [], [], [], []
    for number, name in enumerate(sorted(kept)):
        store, batches = kept[name].store, kept[name].batches
        assert isinstance(batches, FeatureBatches)
        rows = store.splits["test"]
        features.append(batches.plain[rows].numpy())
        labels.append(store.labels[rows])
        groups.append(store.groups[rows])
        sites.append(np.full(len(rows), number, dtype=np.int64))
    signature = site_signature(
        np.concatenate(features),
        np.concatenate(sites),
        np.concatenate(labels),
        np.concatenate(groups),
        seed_for(setup.pipeline.seed, "signature"),
        setup.pipeline.disclosure.min_count,
    )
    return {
        "balanced_accuracy": signature.balanced_accuracy,
        "chance": signature.chance,
        "sites": len(signature.sites),
        "classes": len(signature.classes),
        "reason": signature.reason,
    }
