"""Which kinds of source there are: the files of this package that register one, and those of installed packages."""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, TypeVar

from medfl import config
from medfl.data import sources
from medfl.errors import MedflError, nearest

if TYPE_CHECKING:
    from medfl.data.sources.source import Source

SOURCES: dict[str, type[Source]] = {}
"""Registered sources by the word under `data.source`."""
BAG_SOURCES: dict[str, type[Source]] = {}
"""Those of them that give bags to a model over bags and patches to any other: the class for the bags."""
S = TypeVar("S", bound="type[Source]")


def register(source: S) -> S:
    """Make a source known under its `kind`; a decorator."""
    SOURCES[source.kind] = source
    return source


def register_bags(source: S) -> S:
    """Make the source known that a model over bags has in the place of another one of its `kind`; a decorator."""
    BAG_SOURCES[source.kind] = source
    return source


def source_class(kind: str, bags: bool = False) -> type[Source]:
    """The source behind a word under `data.source`, with `bags` for a model over bags (`model.mil`). Raises MedflError
    with the nearest words where there is none."""
    _import_built_in()
    if bags and kind in BAG_SOURCES:
        return BAG_SOURCES[kind]
    if kind in SOURCES:
        return SOURCES[kind]
    packages = {entry.name: entry for entry in entry_points(group="medfl.sources")}
    if kind not in packages:
        words = sorted({*SOURCES, *packages})
        raise MedflError(f"`data.source`: there is no source {kind!r}.{nearest(kind, words)} Known: {', '.join(words)}")
    source: type[Source] = packages[kind].load()
    return source


def drawn_data(pipeline: Mapping[str, Any]) -> list[str]:
    """What a resolved pipeline of plain values has drawn from a seed, "Tissue" for example: no patient is behind it."""
    _import_built_in()
    shared, sites, words = pipeline["data"], pipeline.get("sites") or {}, set()
    own = [site.get("data") for role in ("train", "held_out") for site in sites.get(role) or ()]
    for section in own or [None]:
        kind = (section or shared).get("source") or shared["source"]
        root = (section or shared).get("root") or (shared.get("root") if kind == shared["source"] else None)
        if kind in SOURCES and not root:
            words.add(SOURCES[kind].drawn)
    return sorted(words - {""})


def check_sources(pipeline: config.Pipeline, where: str) -> None:
    """Raise MedflError, begun by `where`, if a pipeline or one of its sites names a source there is not, or one of
    images where the model reads bags of features, or the other way round."""
    sites = {f"{where}: site {site.name}": site.data.source for site in pipeline.all_sites if site.data}
    for place, kind in {where: pipeline.data.source, **sites}.items():
        try:
            if kind is not None:
                _check_model(kind, pipeline.model)
        except MedflError as error:
            raise MedflError(f"{place}: {error}") from None


def _check_model(kind: str, model: config.ModelConfig) -> None:
    mil, source = model.mil, source_class(kind, model.mil is not None)
    if source.gives_bags and mil is None:
        raise MedflError(
            f"`data.source: {kind}` gives bags of feature vectors, and the model sees images; write `model: {{mil: "
            f"abmil, dim: ...}}` in place of `backbone`"
        )
    if mil is not None and not source.gives_bags:
        raise MedflError(
            f"`model.mil: {mil}` reads bags of feature vectors, and `data.source: {kind}` gives images; write "
            f"`data.source: features` or `slides`, or name a `model.backbone`"
        )
    if kind in BAG_SOURCES and mil is not None and model.encoder is None:
        raise MedflError(
            f"`model.mil: {mil}` reads bags of feature vectors, and nothing says what gives those of `data.source: "
            f"{kind}`; add `model.encoder: {{weights: package}}`, a frozen network, with any weights of `model.weights`"
        )


@functools.cache
def _import_built_in() -> None:
    for module in pkgutil.iter_modules(sources.__path__):
        import_module(f"{sources.__name__}.{module.name}")
