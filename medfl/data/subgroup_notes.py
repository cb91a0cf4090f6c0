"""What is told of subgroups before anything is trained: how many patches of each, and which sites do not state them."""

from __future__ import annotations

import numpy as np

from medfl.data.partition import Partition


def subgroup_rows(partition: Partition) -> list[list[str]]:
    """Site, column, value, patches (source groups) of the subgroup, and those of them that are tested on."""
    rows = []
    for share in partition.sites:
        for column in share.subgroups:
            for value, part in column.cells.items():
                here = np.flatnonzero(part)
                tested = np.intersect1d(share.splits["test"], here)
                counts = [f"{len(at)} ({len(np.unique(share.groups[at]))})" for at in (here, tested)]
                rows.append([share.site, column.name, value, *counts])
    return rows


def without_subgroups(partition: Partition) -> list[str]:
    """A sentence for each column of subgroups on the sites whose tables do not have it."""
    columns = dict.fromkeys(name for share in partition.sites for name in share.catalog.source.spec.subgroups)
    absent = {
        name: [share.site for share in partition.sites if all(own.name != name for own in share.catalog.subgroups)]
        for name in columns
    }
    return [
        f"No column {name} at {', '.join(sites)}: all their patches count as not stated (`evaluation.subgroups`)"
        for name, sites in absent.items()
        if sites
    ]
