"""Which labelled patches there are, and which source each was cut from.

What kinds of source there are is said in the files of `sources/`; this file asks one of them and numbers its words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from medfl import config
from medfl.config.spelling import check_decodable, one_form, show, spelt_alike
from medfl.data.patch_store import I64
from medfl.data.sources.source import Source, SourceSpec
from medfl.data.sources.source_registry import source_class
from medfl.data.subgroup_values import subgroup_columns
from medfl.errors import MedflError
from medfl.metrics.subgroups import SubgroupColumn

PAIRS = 3  # pairs of names that a message lists


@dataclass(frozen=True)
class Catalog:
    """Labelled patches, in an order that depends on names only.

    Attributes:
        source: reads a patch by its reference.
        references: N references, which mean something to `source` alone.
        names: N names, `<word for the class>/<name within it>`, the same wherever the data lie.
        labels: i64[N], index into `classes`.
        groups: i64[N], index into `group_names`.
        group_names: names of the source groups in one Unicode form, sorted.
        classes: `task.classes`.
        groups_unknown: near copies may lie in different groups.
        scope: within one scope, equal group names mean the same source, also across catalogs.
        published: the group names mean the same wherever the data lie.
        exact_names: group names that are not the same for being spelt alike.
        dropped: (word, reference) of patches that the site's `labels` leave out.
        subgroups: the columns of subgroups that its tables have.
    """

    source: Source
    references: tuple[str, ...]
    names: tuple[str, ...]
    labels: I64
    groups: I64
    group_names: tuple[str, ...]
    classes: tuple[str, ...]
    groups_unknown: bool
    scope: str
    published: bool
    exact_names: frozenset[str] = frozenset()
    dropped: tuple[tuple[str, str], ...] = ()
    subgroups: tuple[SubgroupColumn, ...] = ()


def counted_words(catalogs: Iterable[Catalog]) -> str:
    """What the patches of sites are called, several of them: slides or tiles where all are that, else patches."""
    words = {catalog.source.patch_words[1] for catalog in catalogs}
    return words.pop() if words in ({"slides"}, {"tiles"}) else "patches"


def brings_own_data(pipeline: config.Pipeline, site: config.SiteConfig) -> bool:
    """Whether a site uses data of its own (`data.mode: own`, or a `data` section in the site) and is not dealt any."""
    return pipeline.data.mode == "own" or site.data is not None


def pipeline_source(pipeline: config.Pipeline) -> Source:
    """The source of the data dealt to simulated institutions. Generated tissue is written first where there is none.

    Raises:
        MedflError: no data.
    """
    data = pipeline.data
    return source_class(data.source, pipeline.model.mil is not None)(
        SourceSpec(
            where=f"pipeline {pipeline.name}",
            root=data.root,
            source_groups=data.source_groups,
            classes=tuple(pipeline.task.classes),
            labels=None,
            data=data,
            cache=pipeline.cache_dir,
            distinct_names=tuple(data.distinct_names or ()),
            features=data.features or config.FeatureTables(),
            subgroups=pipeline.evaluation.columns,
        )
    )


def pipeline_catalog(pipeline: config.Pipeline) -> Catalog:
    """The catalog dealt to simulated institutions.

    Raises:
        MedflError: no data, an unknown class folder, missing source groups, an unreadable CSV.
    """
    return read_catalog(pipeline_source(pipeline))


def site_catalog(pipeline: config.Pipeline, site: config.SiteConfig) -> Catalog:
    """A site's own data: its `data` section, completed by the pipeline's where the kind of source is the same.

    Raises MedflError as `pipeline_catalog` does.
    """
    where, own = f"site {site.name}", site.data or config.OwnData()
    kind = own.source or pipeline.data.source
    source = source_class(kind, pipeline.model.mil is not None)
    if source.dealt_only:
        absent = "" if own.source else "not stated and the pipeline's is "
        raise MedflError(
            f"{where}: `data.source` is {absent}{kind}, which is generated and dealt; state "
            f"`data: {{source: folder, root: ...}}` in the site file, or set `data.mode: dealt` in the pipeline"
        )
    shared_data = pipeline.data if kind == pipeline.data.source else None
    return read_catalog(
        source(
            SourceSpec(
                where=where,
                root=own.root or (shared_data.root if shared_data else None),
                source_groups=own.source_groups or (shared_data.source_groups if shared_data else None),
                classes=tuple(pipeline.task.classes),
                labels=dict(site.labels),
                data=pipeline.data,
                cache=pipeline.cache_dir,
                distinct_names=tuple(own.distinct_names or (shared_data.distinct_names if shared_data else None) or ()),
                patches=pipeline.parts.patches.get(site.name),
                site=site.name,
                mpp=site.mpp,
                features=_tables(own, shared_data),
                subgroups=pipeline.evaluation.columns,
            )
        )
    )


def _tables(own: config.OwnData, shared: config.Data | None) -> config.FeatureTables:
    """A site's `data.features` over the pipeline's, key by key."""
    sections = [section for section in (shared.features if shared else None, own.features) if section]
    keys = [section.model_dump(exclude_none=True) for section in sections]
    return config.FeatureTables(**{key: value for section in keys for key, value in section.items()})


def read_catalog(source: Source) -> Catalog:
    """All patches of a source.

    Raises MedflError as its `entries` and `groups` do, where it cannot be read, and where two group names differ in
    spelling only.
    """
    try:
        every = source.entries()
        check_decodable((text for entry in every for text in (entry.name, entry.reference)), source.spec.where)
        entries = [entry for entry in every if not source.drops(entry.word)]
        if not entries:
            raise MedflError(f"{source.spec.where}: `labels` drops every class of {source.place}; map one to a class")
        groups = source.groups(entries)
    except OSError as error:
        raise MedflError(
            f"{source.spec.where}: {source.place} (`data.root`) cannot be read: {error.strerror}"
        ) from None
    names = [one_form(name) for name in groups.names]
    group_names = sorted(set(names))
    exact = frozenset(group_names if groups.by_patch else source.spec.distinct_names)
    _check_spelling(source, group_names, exact)
    number = {name: index for index, name in enumerate(group_names)}
    index_of = {word: source.class_index(word) for word in sorted({entry.word for entry in entries})}
    return Catalog(
        source=source,
        references=tuple(entry.reference for entry in entries),
        names=tuple(entry.name for entry in entries),
        labels=np.array([index_of[entry.word] for entry in entries], dtype=np.int64),
        groups=np.array([number[name] for name in names], dtype=np.int64),
        group_names=tuple(group_names),
        classes=source.spec.classes,
        groups_unknown=groups.unknown,
        scope=groups.scope,
        published=groups.published,
        exact_names=exact,
        dropped=tuple((entry.word, entry.reference) for entry in every if source.drops(entry.word)),
        subgroups=subgroup_columns(source, entries, names),
    )


def _check_spelling(source: Source, names: Sequence[str], exact: frozenset[str]) -> None:
    """Raise MedflError where two source groups look like one in two spellings."""
    pairs = list(spelt_alike(names, exact))
    if pairs:
        listed = ", ".join(f'"{show(one)}" and "{show(other)}"' for one, other in pairs[:PAIRS])
        more = f" and {len(pairs) - PAIRS} more pairs" if len(pairs) > PAIRS else ""
        raise MedflError(
            f"{source.spec.where}: source groups of {source.place} that differ in spelling only: {listed}{more}; give "
            f"a patient one name, or list the names under `data.distinct_names` where they are different patients"
        )
