"""Commands that look at whole slides."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfl.cli.commands.common import Set, about, open_terminal
from medfl.errors import MedflError

if TYPE_CHECKING:
    from medfl.data.slides.slide_collection import SlideCollection

slides_app = typer.Typer(help="Look at whole slides.", no_args_is_help=True, rich_markup_mode=None)


@slides_app.command("preview")
def slides_preview(
    site: Annotated[str, typer.Argument(metavar="SITE", help="A site file, or a folder of slides.")],
    pipeline: Annotated[
        str | None, typer.Option(help="Pipeline file whose tiles to draw; else those of 224 px.")
    ] = None,
    set_: Set = None,
    mpp: Annotated[float, typer.Option(help="Microns per pixel of the tiles, where no pipeline says it.")] = 0.5,
    out: Annotated[str, typer.Option(help="Folder to write, which is new.")] = "slides-preview",
    most: Annotated[int, typer.Option(min=1, help="Slides to draw at most.")] = 50,
) -> None:
    """Draw each slide with its tissue, tiles, annotations and pen marks, and a page of them.

    The pictures show patients' tissue and stay where they are written.
    """
    from medfl.data.slides.slide_preview import PAGE, preview_slides

    with open_terminal() as terminal, about(site):
        collection = _collection(site, pipeline, set_ or [], mpp)
        pictures = preview_slides(collection, Path(out), most, terminal.say)
        for picture in pictures:
            if not picture.file:
                terminal.say(f"{picture.name}: {picture.text}")
        terminal.say(f"Slides: {len(pictures)} of {len(collection.slides)}. Page: {Path(out) / PAGE}")


def _collection(site: str, pipeline: str | None, overrides: list[str], mpp: float) -> SlideCollection:
    """The slides of a site file or a folder, tiled as a pipeline says or by default."""
    from medfl import config
    from medfl.config.pipeline_config import default_cache
    from medfl.data.slides.slide_collection import SlideCollection
    from medfl.data.sources.source import SourceSpec
    from medfl.pipeline.load_pipeline import load_pipeline, load_site

    data = load_pipeline(pipeline, overrides).data if pipeline else config.Data(source="slides", size=224, mpp=mpp)
    if Path(site).is_dir():
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
        site=None if Path(site).is_dir() else facts.name,
        mpp=facts.mpp,
    )
    root = Path(own.root).expanduser().absolute()
    if not root.exists():
        raise MedflError(f"`data.root` names {root}, which does not exist; correct it")
    return SlideCollection(spec, root, lambda word: None)
