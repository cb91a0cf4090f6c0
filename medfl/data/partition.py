"""Which patches each site holds, and in which split: dealt from one catalog, or the site's own data.

Nothing is in two places: a source group belongs to one split of one site. How a catalog is dealt is said in
`partition_by_class_mix.py`, how a site's patches are split in `splits.py`.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medfl import config
from medfl.config.spelling import show, spellings, spelt_alike
from medfl.data.catalog import Catalog, brings_own_data, counted_words, pipeline_catalog, site_catalog
from medfl.data.partition_by_class_mix import partition_by_class_mix
from medfl.data.patch_store import I64
from medfl.data.splits import SPLITS, split_by_group
from medfl.data.table_file import open_table
from medfl.errors import MedflError
from medfl.metrics.subgroups import SubgroupColumn
from medfl.seeds import seed_for

if TYPE_CHECKING:
    from medfl.data.image_file import PatchReader

KEYED = 20
"""Hexadecimal digits of a keyed digest; those without a key have 16."""


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
    def group_names(self) -> list[str]:
        """Names of the source groups, sorted."""
        return [self.catalog.group_names[group] for group in np.unique(self.groups)]

    @property
    def subgroups(self) -> tuple[SubgroupColumn, ...]:
        """The columns of subgroups of its patches."""
        return tuple(column.of(self.rows) for column in self.catalog.subgroups)

    @property
    def names(self) -> list[str]:
        """Name of each patch at its site."""
        return [self.catalog.names[row] for row in self.rows]

    @property
    def references(self) -> list[str]:
        """By what the catalog's source reads each patch."""
        return [self.catalog.references[row] for row in self.rows]

    @property
    def locations(self) -> list[str]:
        """Where each patch lies, for people and for tables that stay at the site."""
        return [self.catalog.source.describe(reference) for reference in self.references]

    @property
    def readers(self) -> list[PatchReader]:
        """A function for each patch that reads it."""
        return [functools.partial(self.catalog.source.read, reference) for reference in self.references]


@dataclass(frozen=True)
class Partition:
    """All sites' shares, in the pipeline's order of sites."""

    sites: tuple[SitePartition, ...]

    @property
    def groups_unknown(self) -> bool:
        """Whether any site's source groups are unknown (`source_groups: ignore`)."""
        return any(share.catalog.groups_unknown for share in self.sites)

    def left_out(self) -> list[str]:
        """Sentences on images that lie among the data and are no patches of any site, with the data's subject."""
        catalogs = {id(share.catalog): share.catalog for share in self.sites}.values()
        return [
            f"{catalog.source.spec.where}: {sentence}"
            for catalog in catalogs
            for sentence in catalog.source.left_out([*catalog.references, *(name for _, name in catalog.dropped)])
        ]

    def dropped(self) -> list[str]:
        """A sentence for each site on the patches that its `labels` drop."""
        counts = {share.site: Counter(word for word, _ in share.catalog.dropped) for share in self.sites}
        words = counted_words(share.catalog for share in self.sites)
        return [
            f"site {site}: {count.total():,} {words} dropped by `labels` "
            f"({', '.join(f'{show(word)} {number:,}' for word, number in sorted(count.items()))})"
            for site, count in counts.items()
            if count
        ]

    def namesakes(self) -> list[str]:
        """Sentences on groups of two sites with data in two places whose names are alike: one patient, perhaps."""
        sentences = []
        for one, other in itertools.combinations(self.sites, 2):
            if one.catalog.scope == other.catalog.scope:
                continue
            forms = {
                form for name in one.group_names if name not in one.catalog.exact_names for form in spellings(name)
            }
            names = [name for name in other.group_names if name not in other.catalog.exact_names]
            alike = [name for name in names if spellings(name) & forms]
            if alike:
                sentences.append(
                    f"Alike: {len(alike):,} source groups of site {other.site} are called as some of site {one.site}, "
                    f'the first "{show(alike[0])}"; they count as different patients, since the data lie in two places'
                )
        return sentences

    def check(self) -> None:
        """Prove that no source group and no patch is in two sites or in two splits of a site.

        Patches are compared by what their sources say they are, so links and overlapping roots are seen. Names of
        groups that differ in spelling only are not told apart, unless a site says that they are two.

        Raises:
            MedflError: something is in two places; names it and both.
        """
        groups: dict[object, str] = {}
        patches: dict[object, str] = {}
        for share in self.sites:
            source, references = share.catalog.source, share.references
            every = np.sort(np.concatenate(list(share.splits.values())))
            if not np.array_equal(every, np.arange(len(share.rows))):
                raise MedflError(f"site {share.site}: a patch is in no split or in two; allocate the sites again")
            for split, positions in share.splits.items():
                place = f"site {share.site} ({split})"
                rows = share.rows[positions]
                for group in np.unique(share.catalog.groups[rows]):
                    name = share.catalog.group_names[group]
                    _claim(groups, (share.catalog.scope, name), place, "the source group", str, name)
                what = f"the {source.patch_words[0]}"
                for reference in (references[position] for position in positions):
                    _claim(patches, source.identity(reference), place, what, source.describe, reference)
        self._check_spelling()

    def _check_spelling(self) -> None:
        """Raise MedflError where two sites hold one group under two spellings; `catalog` looks within a site."""
        scopes: dict[str, list[SitePartition]] = {}
        for share in self.sites:
            scopes.setdefault(share.catalog.scope, []).append(share)
        for shares in scopes.values():
            if len({id(share.catalog) for share in shares}) == 1:
                continue
            sites = {name: share.site for share in shares for name in share.group_names}
            exact = {name for share in shares for name in share.catalog.exact_names}
            for one, other in spelt_alike(sorted(sites), exact):
                raise MedflError(
                    f'the source groups "{show(one)}" of site {sites[one]} and "{show(other)}" of site {sites[other]} '
                    f"differ in spelling only; give a patient one name at one site, or list both names under "
                    f"`data.distinct_names` where they are different patients"
                )

    def write(self, path: Path) -> None:
        """Write every patch as `site,split,class,group,file`. Names patches: the table stays at the site."""
        with open_table(path, ("site", "split", "class", "group", "file"), private=True) as writer:
            for share in self.sites:
                catalog, locations = share.catalog, share.locations
                for split, positions in share.splits.items():
                    for position in positions:
                        row = share.rows[position]
                        label, group = catalog.classes[catalog.labels[row]], catalog.group_names[catalog.groups[row]]
                        writer.writerow([share.site, split, label, group, locations[position]])

    def summary(self, key: bytes | None = None) -> list[dict[str, str | int]]:
        """Counts by site, split and class (absent classes too): site, role, split, class, groups, patches, digest.

        With a key the digest is an HMAC over class, group, name and whole content of the patches: equal for equal data
        anywhere, and without the key no name can be found by trying. Without one it is a sha256 over class, group, name
        and size, as version 0.1 wrote it: it is compared with what that version left, and is not to be written or sent.
        """
        return [row for share in self.sites for row in _summary(share, key)]

    def counts(self) -> list[dict[str, str | int]]:
        """The same rows without digests, for which no file is looked at."""
        return [row for share in self.sites for row, _ in _counts(share)]


def make_partition(pipeline: config.Pipeline, catalog: Catalog | None = None) -> Partition:
    """Give every site its patches, split them, and check the result.

    Args:
        pipeline: its seed, data and sites decide who is given what.
        catalog: what `pipeline_catalog` gives, where that has been read already.

    Raises:
        MedflError: bad or missing data, demand above supply, a site with too few source groups, data in two places.
    """
    recipients = [site for site in pipeline.all_sites if not brings_own_data(pipeline, site)]
    if recipients:
        catalog = catalog or pipeline_catalog(pipeline)
        rows_of = partition_by_class_mix(pipeline, catalog, recipients)
    shares = []
    for role, sites in (("train", pipeline.train_sites), ("held_out", pipeline.held_out_sites)):
        for site in sites:
            if brings_own_data(pipeline, site):
                shares.append(own_partition(pipeline, site, role))
            elif catalog is not None:
                shares.append(_site_partition(pipeline, site, role, catalog, rows_of[site.name]))
    partition = Partition(tuple(shares))
    partition.check()
    return partition


def own_partition(pipeline: config.Pipeline, site: config.SiteConfig, role: str) -> SitePartition:
    """All of a site's own data, split if the site trains. Raises MedflError as `site_catalog` and for a small site."""
    dealt = ("patches", "class_mix") if role == "train" else ("patches",)  # else its mix is what its registry says
    keys = [key for key in dealt if getattr(site, key) is not None]
    if keys:
        raise MedflError(
            f"site {site.name}: `{keys[0]}` is for dealt data, but the site brings its own (`data`), all of which is "
            f"used; remove one of the two keys"
        )
    catalog = site_catalog(pipeline, site)
    return _site_partition(pipeline, site, role, catalog, np.arange(len(catalog.references)))


def _site_partition(
    pipeline: config.Pipeline, site: config.SiteConfig, role: str, catalog: Catalog, rows: I64
) -> SitePartition:
    """These rows of a catalog, split if the site trains."""
    if role == "held_out":
        return SitePartition(site.name, role, catalog, rows, {"test": np.arange(len(rows))})
    shares = pipeline.data.splits
    groups = catalog.groups[rows]
    splits = split_by_group(
        catalog.labels[rows],
        groups,
        shares.val,
        shares.test,
        seed_for(pipeline.seed, "split", site.name),
        pipeline.cache_dir / "splits",
    )
    if not all(len(positions) for positions in splits.values()):
        raise MedflError(
            f"site {site.name}: {len(rows)} patches of {len(np.unique(groups))} source groups, but a training site "
            f"needs at least 3 groups, one each for {', '.join(SPLITS)}; give it more data or make it held-out"
        )
    return SitePartition(site.name, role, catalog, rows, splits)


def _claim(
    claims: dict[object, str], key: object, place: str, kind: str, describe: Callable[[Any], str], thing: Any
) -> None:
    """Raise MedflError where another place has it; it is described only then, since there may be a million."""
    before = claims.setdefault(key, place)
    if before != place:
        raise MedflError(
            f"{kind} {describe(thing)} is in two places, {before} and {place}; a source may be in one split of one "
            f"site only: give each site data of its own (`data.root`) or correct the source groups"
        )


def _summary(share: SitePartition, key: bytes | None) -> Iterator[dict[str, str | int]]:
    lines = _digest_lines(share, whole=key is not None)
    for row, mine in _counts(share):
        yield row | {"digest": _digest([lines[position] for position in mine], key)}


def _counts(share: SitePartition) -> Iterator[tuple[dict[str, str | int], I64]]:
    """A row for each split and class, and the positions of its patches."""
    for split, positions in share.splits.items():
        labels = share.labels[positions]
        for label, name in enumerate(share.catalog.classes):
            mine = positions[labels == label]
            row: dict[str, str | int] = {"site": share.site, "role": share.role, "split": split, "class": name}
            yield row | {"groups": len(np.unique(share.groups[mine])), "patches": len(mine)}, mine


def _digest_lines(share: SitePartition, whole: bool) -> list[str]:
    """What a digest is over, a line for each of a site's patches: class, group, name, and content (`whole`) or size."""
    catalog, references = share.catalog, share.references
    try:
        if whole:
            marks = catalog.source.fingerprints(references)
        else:
            marks = [str(catalog.source.byte_count(reference)) for reference in references]
    except OSError as error:
        raise MedflError(f"site {share.site}: {error.filename} cannot be read: {error.strerror}") from None
    words = zip(share.labels, share.groups, share.names, marks, strict=True)
    return ["\t".join([catalog.classes[c], catalog.group_names[g], name, mark]) for c, g, name, mark in words]


def _digest(lines: list[str], key: bytes | None) -> str:
    text = "\n".join(sorted(lines)).encode(errors="surrogateescape")
    if not lines:
        return ""
    return hmac.new(key, text, "sha256").hexdigest()[:KEYED] if key else hashlib.sha256(text).hexdigest()[:16]
