"""Which patches of one catalog each site is dealt: whole source groups, near the class mix that the site asks for.

A site demands `patches` x `class_mix`. The groups, shuffled by the pipeline's seed, go one by one to the site that
lacks most of what the group holds and can take all of it; what is left then goes, largest groups first, to the site
whose count it brings nearest to the demand. `class_mix: null` is the catalog's own mix; `patches: null` is an equal
share, the largest number that all such sites can have of their mixes at once, less 2 % so that whole groups can be
found near every demand. Sites are taken by name, so the order of site files changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medfl import config
from medfl.data.catalog import Catalog
from medfl.data.patch_store import I64
from medfl.errors import MedflError
from medfl.seeds import seed_for

SLACK = 0.02


def partition_by_class_mix(
    pipeline: config.Pipeline, catalog: Catalog, sites: Sequence[config.SiteConfig]
) -> dict[str, I64]:
    """Rows of the catalog for every site, by name, ascending.

    Raises:
        MedflError: more patches of a class are asked for than there are, or a site asks for less than one group.
    """
    by_name = sorted(sites, key=lambda site: site.name)
    demand = _demand(pipeline, catalog, by_name)
    counts = np.zeros((len(catalog.group_names), len(catalog.classes)), dtype=np.int64)
    np.add.at(counts, (catalog.groups, catalog.labels), 1)
    lacking, holder = demand.copy(), np.full(len(counts), -1)
    order = np.random.default_rng(seed_for(pipeline.seed, "deal")).permutation(len(counts))
    for group in order:
        able = (counts[group] <= lacking).all(axis=1)
        if able.any():
            _give(group, np.where(able, lacking @ (counts[group] > 0), -1), lacking, counts, holder)
    rest = order[holder[order] < 0]
    for group in rest[np.argsort(-counts[rest].sum(axis=1), kind="stable")]:
        nearer = (np.abs(lacking) - np.abs(lacking - counts[group])).sum(axis=1)
        if nearer.max() > 0:
            _give(group, nearer, lacking, counts, holder)
    rows_of = {}
    for index, site in enumerate(by_name):
        rows = np.flatnonzero(holder[catalog.groups] == index)
        if not len(rows):
            raise MedflError(
                f"site {site.name}: its demand of {demand[index].sum()} patches is nearer to none than to one whole "
                f"source group; raise its `patches`"
            )
        rows_of[site.name] = rows
    return rows_of


def _give(group: int, worth: I64, lacking: I64, counts: I64, holder: I64) -> None:
    """Hand a group to the site of greatest worth, the first by name among equals."""
    site = int(np.argmax(worth))
    holder[group] = site
    lacking[site] -= counts[group]


def _demand(pipeline: config.Pipeline, catalog: Catalog, sites: Sequence[config.SiteConfig]) -> I64:
    """Patches every site asks for, i64[sites, classes].

    Raises:
        MedflError: the sites together ask for more of a class than there is, with the table of both.
    """
    supply = np.bincount(catalog.labels, minlength=len(catalog.classes))
    mixes = np.stack([_mix(site, catalog.classes, supply) for site in sites])
    demand = np.zeros((len(sites), len(supply)), dtype=np.int64)
    open_sites = []
    for index, site in enumerate(sites):
        if site.patches is None:
            open_sites.append(index)
        else:
            demand[index] = apportion(site.patches, mixes[index])
    if open_sites:
        rest, mix = np.maximum(supply - demand.sum(axis=0), 0), mixes[open_sites].sum(axis=0)
        each = int((rest[mix > 0] / mix[mix > 0]).min() * (1 - SLACK))
        for patches in range(max(each, 1), 0, -1):  # rounding to whole patches may ask for one too many
            demand[open_sites] = [apportion(patches, mixes[index]) for index in open_sites]
            if (demand[open_sites].sum(axis=0) <= rest).all():
                break
    _check_supply(pipeline, catalog.classes, demand.sum(axis=0), supply)
    return demand


def _check_supply(pipeline: config.Pipeline, classes: Sequence[str], demand: I64, supply: I64) -> None:
    if (demand > supply).any():
        rows = zip(classes, demand, supply, strict=True)
        short = ", ".join(f"{name} {d:,} demanded, {s:,} available" for name, d, s in rows if d > s)
        raise MedflError(
            f"pipeline {pipeline.name}: the sites ask for more patches than the catalog holds ({short}); lower "
            f"`patches` or change `class_mix` in the site files, or list fewer sites"
        )


def _mix(site: config.SiteConfig, classes: Sequence[str], supply: I64) -> NDArray[np.float64]:
    """The site's class mix f64[C], summing to 1."""
    mix = np.array(site.stated_mix(classes) or supply, dtype=np.float64)
    total: float = mix.sum()
    return mix / total


def apportion(total: int, mix: NDArray[np.float64]) -> I64:
    """Whole numbers i64[C] that sum to `total`, nearest to total x mix (largest remainders; the first among equals)."""
    exact = total * mix
    whole = np.floor(exact).astype(np.int64)
    first = np.argsort(-(exact - whole), kind="stable")
    whole[first[: total - int(whole.sum())]] += 1
    return whole
