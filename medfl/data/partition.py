"""Which patches each site holds: whole source groups dealt from one catalog, or each site's own data.

Dealing. A site demands `patches` x `class_mix`. The groups, shuffled by the pipeline's seed, go one by one to the
site that lacks most of what the group holds and can take all of it; what is left then goes, largest groups first,
to the site whose count it brings nearest to the demand. `class_mix: null` is the catalog's own mix; `patches: null`
is an equal share, the largest number that all such sites can have of their mixes at once, less 2 % so that whole
groups can be found near every demand. Sites are taken by name, so the order of site files changes nothing.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medfl import config
from medfl.data.catalog import Catalog, brings_own_data, pipeline_catalog, site_catalog
from medfl.data.patch_store import I64
from medfl.data.splits import SPLITS, split_by_group
from medfl.errors import MedflError, nearest
from medfl.seeds import seed_for

SLACK = 0.02


@dataclass(frozen=True)
class SitePartition:
    """What one site holds.

    Attributes:
        site, role: its name; "train" or "held_out".
        catalog: where its patches come from.
        rows: i64[n], rows of the catalog, ascending.
        splits: positions in `rows`, i64 each: train, val, test at a training site, test alone at a held-out one.
    """

    site: str
    role: str
    catalog: Catalog
    rows: I64
    splits: dict[str, I64]

    @property
    def labels(self) -> I64:
        """Class index of each patch, i64[n]."""
        return self.catalog.labels[self.rows]

    @property
    def groups(self) -> I64:
        """Source group of each patch, i64[n], index into `catalog.group_names`."""
        return self.catalog.groups[self.rows]

    @property
    def names(self) -> list[str]:
        """Name of each patch at its site."""
        return [self.catalog.names[row] for row in self.rows]

    @property
    def paths(self) -> list[Path]:
        """File of each patch."""
        return [self.catalog.paths[row] for row in self.rows]


@dataclass(frozen=True)
class Partition:
    """All sites' shares, in the pipeline's order of sites."""

    sites: tuple[SitePartition, ...]

    @property
    def groups_unknown(self) -> bool:
        """Whether any site's source groups are unknown (`source_groups: ignore`)."""
        return any(share.catalog.groups_unknown for share in self.sites)

    def check(self) -> None:
        """Prove that no source group and no file is in two sites or in two splits of a site.

        Files are compared by what they are on the disk, so links and overlapping roots are seen.

        Raises:
            MedflError: something is in two places; names it and both.
        """
        groups: dict[object, str] = {}
        files: dict[object, str] = {}
        for share in self.sites:
            placed = np.sort(np.concatenate(list(share.splits.values())))
            if not np.array_equal(placed, np.arange(len(share.rows))):
                raise MedflError(f"site {share.site}: a patch is in no split or in two; allocate the sites again")
            for split, positions in share.splits.items():
                place = f"site {share.site} ({split})"
                rows = share.rows[positions]
                for group in np.unique(share.catalog.groups[rows]):
                    name = share.catalog.group_names[group]
                    _claim(groups, (share.catalog.scope, name), place, f"the source group {name}")
                for row in rows:
                    path = share.catalog.paths[row]
                    status = path.stat()
                    _claim(files, (status.st_dev, status.st_ino), place, f"the file {path}")

    def write(self, path: Path) -> None:
        """Write every patch as `site,split,class,group,file`. Names files: the table stays at the site."""
        part = path.with_name(path.name + ".part")
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["site", "split", "class", "group", "file"])
            for share in self.sites:
                catalog = share.catalog
                for split, positions in share.splits.items():
                    for row in share.rows[positions]:
                        label, group = catalog.classes[catalog.labels[row]], catalog.group_names[catalog.groups[row]]
                        writer.writerow([share.site, split, label, group, catalog.paths[row]])
        os.replace(part, path)

    def summary(self) -> list[dict[str, str | int]]:
        """Counts by site, split and class (absent classes too): site, role, split, class, groups, patches, digest.

        The digest is a short sha256 over sorted class, group, file name and size: equal for equal data anywhere, and
        it reveals no name.
        """
        return [row for share in self.sites for row in _summary(share)]


def make_partition(pipeline: config.Pipeline) -> Partition:
    """Give every site its patches, split them, and check the result.

    Raises:
        MedflError: bad or missing data, demand above supply, a site with too few source groups, data in two places.
    """
    dealt = {site.name: site for site in pipeline.all_sites if not brings_own_data(pipeline, site)}
    if dealt:
        catalog = pipeline_catalog(pipeline)
        hands = _deal(pipeline, catalog, list(dealt.values()))
    shares = []
    for role, sites in (("train", pipeline.train_sites), ("held_out", pipeline.held_out_sites)):
        for site in sites:
            if site.name in dealt:
                shares.append(_share(pipeline, site, role, catalog, hands[site.name]))
            else:
                shares.append(own_partition(pipeline, site, role))
    allocation = Partition(tuple(shares))
    allocation.check()
    return allocation


def own_partition(pipeline: config.Pipeline, site: config.SiteConfig, role: str) -> SitePartition:
    """All of a site's own data, split if the site trains. Raises MedflError as `site_catalog` and for a small site."""
    stated = [key for key in ("patches", "class_mix") if getattr(site, key) is not None]
    if stated:
        raise MedflError(
            f"site {site.name}: `{stated[0]}` is for dealt data, but the site brings its own (`data`), all of which is "
            f"used; remove one of the two keys"
        )
    catalog = site_catalog(pipeline, site)
    return _share(pipeline, site, role, catalog, np.arange(len(catalog.paths)))


def _share(pipeline: config.Pipeline, site: config.SiteConfig, role: str, catalog: Catalog, rows: I64) -> SitePartition:
    if role == "held_out":
        return SitePartition(site.name, role, catalog, rows, {"test": np.arange(len(rows))})
    stated = pipeline.data.splits
    groups = catalog.groups[rows]
    splits = split_by_group(
        catalog.labels[rows],
        groups,
        stated.val,
        stated.test,
        seed_for(pipeline.seed, "split", site.name),
        pipeline.cache_dir / "splits",
    )
    if not all(len(positions) for positions in splits.values()):
        raise MedflError(
            f"site {site.name}: {len(rows)} patches of {len(np.unique(groups))} source groups, but a training site "
            f"needs at least 3 groups, one each for {', '.join(SPLITS)}; give it more data or make it held-out"
        )
    return SitePartition(site.name, role, catalog, rows, splits)


def _deal(pipeline: config.Pipeline, catalog: Catalog, sites: Sequence[config.SiteConfig]) -> dict[str, I64]:
    """Rows of the catalog for every site, by name."""
    ordered = sorted(sites, key=lambda site: site.name)
    demand = _demand(pipeline, catalog, ordered)
    counts = np.zeros((len(catalog.group_names), len(catalog.classes)), dtype=np.int64)
    np.add.at(counts, (catalog.groups, catalog.labels), 1)
    lacking, holder = demand.copy(), np.full(len(counts), -1)
    order = np.random.default_rng(seed_for(pipeline.seed, "deal")).permutation(len(counts))
    for group in order:
        able = (counts[group] <= lacking).all(axis=1)
        if able.any():
            _give(group, np.where(able, lacking @ (counts[group] > 0), -1), lacking, counts, holder)
    left = order[holder[order] < 0]
    for group in left[np.argsort(-counts[left].sum(axis=1), kind="stable")]:
        nearer = (np.abs(lacking) - np.abs(lacking - counts[group])).sum(axis=1)
        if nearer.max() > 0:
            _give(group, nearer, lacking, counts, holder)
    hands = {}
    for index, site in enumerate(ordered):
        rows = np.flatnonzero(holder[catalog.groups] == index)
        if not len(rows):
            raise MedflError(
                f"site {site.name}: its demand of {demand[index].sum()} patches is nearer to none than to one whole "
                f"source group; raise its `patches`"
            )
        hands[site.name] = rows
    return hands


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
    unstated = []
    for index, site in enumerate(sites):
        if site.patches is None:
            unstated.append(index)
        else:
            demand[index] = apportion(site.patches, mixes[index])
    if unstated:
        left, wanted = np.maximum(supply - demand.sum(axis=0), 0), mixes[unstated].sum(axis=0)
        each = int((left[wanted > 0] / wanted[wanted > 0]).min() * (1 - SLACK))
        for patches in range(max(each, 1), 0, -1):  # rounding to whole patches may ask for one too many
            demand[unstated] = [apportion(patches, mixes[index]) for index in unstated]
            if (demand[unstated].sum(axis=0) <= left).all():
                break
    asked = demand.sum(axis=0)
    if (asked > supply).any():
        width = max(5, *(len(name) for name in catalog.classes))
        rows = zip(catalog.classes, asked, supply, strict=True)
        table = [f"  {'class':{width}}  {'demanded':>9}  {'available':>9}"]
        table += [f"  {name:{width}}  {a:9}  {s:9}{'  too few' if a > s else ''}" for name, a, s in rows]
        raise MedflError(
            f"pipeline {pipeline.name}: the sites ask for more patches than the catalog holds; lower `patches` or "
            f"change `class_mix` in the site files, or list fewer sites\n" + "\n".join(table)
        )
    return demand


def _mix(site: config.SiteConfig, classes: Sequence[str], supply: I64) -> NDArray[np.float64]:
    """The site's class mix f64[C], summing to 1."""
    if site.class_mix is None:
        mix: NDArray[np.float64] = supply / supply.sum()
        return mix
    for name in site.class_mix:
        if name not in classes:
            raise MedflError(
                f"site {site.name}: `class_mix` names the class {name}, which is not in `task.classes` "
                f"({', '.join(classes)}).{nearest(name, classes)}"
            )
    mix = np.array([site.class_mix.get(name, 0.0) for name in classes])
    total: float = mix.sum()
    return mix / total


def apportion(total: int, mix: NDArray[np.float64]) -> I64:
    """Whole numbers i64[C] that sum to `total`, nearest to total x mix (largest remainders; the first among equals)."""
    exact = total * mix
    whole = np.floor(exact).astype(np.int64)
    first = np.argsort(-(exact - whole), kind="stable")
    whole[first[: total - int(whole.sum())]] += 1
    return whole


def _claim(taken: dict[object, str], key: object, place: str, what: str) -> None:
    before = taken.setdefault(key, place)
    if before != place:
        raise MedflError(
            f"{what} is in two places, {before} and {place}; a source may be in one split of one site only: give each "
            f"site data of its own (`data.root`) or correct the source groups"
        )


def _summary(share: SitePartition) -> Iterator[dict[str, str | int]]:
    catalog = share.catalog
    for split, positions in share.splits.items():
        rows = share.rows[positions]
        for label, name in enumerate(catalog.classes):
            mine = rows[catalog.labels[rows] == label]
            yield {
                "site": share.site,
                "role": share.role,
                "split": split,
                "class": name,
                "groups": len(np.unique(catalog.groups[mine])),
                "patches": len(mine),
                "digest": _digest(catalog, mine),
            }


def _digest(catalog: Catalog, rows: I64) -> str:
    lines = []
    for row in rows:
        words = [catalog.classes[catalog.labels[row]], catalog.group_names[catalog.groups[row]], catalog.names[row]]
        lines.append("\t".join([*words, str(catalog.paths[row].stat().st_size)]))
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16] if lines else ""
