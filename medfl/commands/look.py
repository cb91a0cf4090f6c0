"""Commands that look: into the data of a pipeline, at its sites, into a folder, at the methods."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medfl.commands.common import PipelineFile, Set, about, open_terminal
from medfl.errors import MedflError

data_app = typer.Typer(help="Look into the data of a pipeline.", no_args_is_help=True, rich_markup_mode=None)
sites_app = typer.Typer(help="Look at sites.", no_args_is_help=True, rich_markup_mode=None)
init_app = typer.Typer(help="Write a starting file.", no_args_is_help=True, rich_markup_mode=None)


def methods() -> None:
    """List the methods, with their parameters and what each may share a chain with."""
    from medfl.methods.listing import listing

    with open_terminal() as terminal:
        columns = ["name", "parameters", "what it does", "goes with"]
        terminal.table("Methods; an empty chain is FedAvg", columns, listing())


@data_app.command("check")
def data_check(pipeline: PipelineFile, set_: Set = None) -> None:
    """Prove that no source group is in two places; print class mix, patches and groups per site and split."""
    from medfl.data.allocation import allocate
    from medfl.loading import load_pipeline

    with open_terminal() as terminal, about(pipeline):
        loaded = load_pipeline(pipeline, set_ or [])
        allocation = allocate(loaded)  # it proves disjointness, or raises
        terminal.allocation(allocation.summary(), loaded.task.classes)
        terminal.say(
            "Disjoint: every source group is in one site and one split only."
            if not allocation.leaky
            else "LEAKY: source groups are ignored, so near-copies of test patches may be in training."
        )


@sites_app.command("preview")
def sites_preview(
    pipeline: PipelineFile,
    set_: Set = None,
    out: Annotated[str, typer.Option(help="Picture to write.")] = "sites.png",
) -> None:
    """Write one picture: a row of patches per site, as the model will see them."""
    from medfl.data.allocation import allocate
    from medfl.data.preview import preview
    from medfl.data.store import render
    from medfl.loading import load_pipeline

    with about(pipeline):
        loaded = load_pipeline(pipeline, set_ or [])
        by_name = {site.name: site for site in loaded.all_sites}
        stores = [render(loaded, by_name[share.site], share) for share in allocate(loaded).shares]
        preview(stores, Path(out), loaded)
    print(f"Picture: {out}")


@init_app.command("site")
def init_site(
    data: Annotated[str, typer.Option(help="The folder (or CSV file) to inspect.")],
    name: Annotated[str | None, typer.Option(help="Site name; default: the folder's.")] = None,
    out: Annotated[str | None, typer.Option(help="File to write; default: <name>.yaml.")] = None,
) -> None:
    """Inspect a folder of patches and write a valid site file for it."""
    from medfl.data.inspect import inspect_folder, site_yaml
    from medfl.runs import write_text

    site, notes = inspect_folder(Path(data), name)
    target = Path(out or f"{site['name'].replace('-', '_')}.yaml")
    if target.exists():
        raise MedflError(f"{target} exists already; name another file with --out")
    try:
        write_text(target, site_yaml(site, notes))
    except OSError as error:
        raise MedflError(f"{target} cannot be written: {error.strerror}") from None
    for note in notes:
        print(note)
    print(f"Site file: {target}")
