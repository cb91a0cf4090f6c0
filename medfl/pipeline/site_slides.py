"""The slides of one site or folder, for commands that look at them without a run."""

from __future__ import annotations

from pathlib import Path

from medfl import config
from medfl.config.pipeline_config import default_cache
from medfl.data.render import RenderSettings
from medfl.data.slides.slide_collection import SlideCollection
from medfl.data.sources.source import SourceSpec
from medfl.errors import MedflError
from medfl.pipeline.load_pipeline import load_site


def site_slides(site: str, data: config.Data) -> SlideCollection:
    """The slides of a site file or of a folder, tiled as `data` says.

    Raises:
        MedflError: a site file that names no slides, a root that is not there.
    """
    alone = Path(site).is_dir()
    if alone:
        facts = config.SiteConfig(name="here", data=config.OwnData(source="slides", root=site))
    else:
        facts = load_site(site)
    own = facts.data or config.OwnData()
    if own.source not in (None, "slides") or own.root is None:
        raise MedflError(
            "`data` names no slides; write `data: {source: slides, root: ...}`, or give a folder of slides"
        )
    spec = SourceSpec(
        where=f"site {facts.name}",
        root=own.root,
        source_groups=own.source_groups,
        classes=(),
        labels=dict(facts.labels),
        data=data,
        cache=Path(data.cache) if data.cache else default_cache(),
        site=None if alone else facts.name,
        mpp=facts.mpp,
    )
    root = Path(own.root).expanduser().absolute()
    if not root.exists():
        raise MedflError(f"`data.root` names {root}, which does not exist; correct it")
    return SlideCollection(spec, root, lambda word: None)


def plain_look(size: int) -> RenderSettings:
    """Tiles of `size` pixels as they are read, of the site's own stain."""
    return RenderSettings(size=size, field=size, transforms=[], stain=None, strength=0.0, seed=0)
