"""Commands that look at whole slides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medfl.cli.commands.common import Set, about, open_terminal

slides_app = typer.Typer(help="Look at whole slides.", no_args_is_help=True, rich_markup_mode=None)


@slides_app.command("preview")
def slides_preview(
    site: Annotated[str, typer.Argument(metavar="SITE", help="A site file, or a folder of slides.")],
    pipeline: Annotated[
        str | None, typer.Option(help="Pipeline file whose tiles to draw; else those of 224 px.")
    ] = None,
    set_: Set = None,
    mpp: Annotated[
        float, typer.Option(min=0.01, help="Microns per pixel of the tiles, where no pipeline says it.")
    ] = 0.5,
    out: Annotated[str, typer.Option(help="Folder to write, which is new.")] = "slides-preview",
    most: Annotated[int, typer.Option(min=1, help="Slides to draw at most.")] = 50,
) -> None:
    """Draw each slide with its tissue, tiles, annotations and pen marks, and a page of them.

    The pictures show patients' tissue and stay where they are written.
    """
    from medfl import config
    from medfl.data.slides.slide_preview import PAGE, preview_slides
    from medfl.pipeline.load_pipeline import load_pipeline
    from medfl.pipeline.site_slides import site_slides

    with open_terminal() as terminal, about(site):
        data = config.Data(source="slides", size=224, mpp=mpp)
        collection = site_slides(site, load_pipeline(pipeline, set_ or []).data if pipeline else data)
        pictures = preview_slides(collection, Path(out), most, terminal.say)
        for picture in pictures:
            if not picture.file:
                terminal.say(f"{picture.name}: {picture.text}")
        terminal.say(f"Slides: {len(pictures)} of {len(collection.slides)}. Page: {Path(out) / PAGE}")
