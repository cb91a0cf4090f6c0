"""Commands that look at sites."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medfl.cli.commands.common import PipelineFile, Set, about, open_terminal

sites_app = typer.Typer(help="Look at sites.", no_args_is_help=True, rich_markup_mode=None)


@sites_app.command("preview")
def sites_preview(
    pipeline: PipelineFile,
    set_: Set = None,
    out: Annotated[str, typer.Option(help="Picture to write.")] = "sites.png",
) -> None:
    """Write one picture: a row of patches per site, as the model will see them."""
    from medfl.data.partition import make_partition
    from medfl.data.preview import preview
    from medfl.data.render import render, warn_of_resolution
    from medfl.pipeline.load_pipeline import load_pipeline

    with open_terminal() as terminal, about(pipeline):
        loaded = load_pipeline(pipeline, set_ or [])
        by_name = {site.name: site for site in loaded.all_sites}
        warn_of_resolution(loaded, loaded.all_sites)
        stores = [render(loaded, by_name[share.site], share) for share in make_partition(loaded).sites]
        preview(stores, Path(out), loaded)
        terminal.say(f"Picture: {out}")
