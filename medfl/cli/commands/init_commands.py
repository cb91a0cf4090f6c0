"""Commands that write a file to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medfl.cli.commands.common import open_terminal
from medfl.errors import MedflError

init_app = typer.Typer(help="Write a starting file.", no_args_is_help=True, rich_markup_mode=None)


@init_app.command("site")
def init_site(
    data: Annotated[str, typer.Option(help="The folder (or CSV file) to inspect.")],
    name: Annotated[str | None, typer.Option(help="Site name; default: the folder's.")] = None,
    out: Annotated[str | None, typer.Option(help="File to write; default: <name>.yaml.")] = None,
) -> None:
    """Inspect a folder of patches and write a valid site file for it."""
    from medfl.data.atomic_file import write_text
    from medfl.data.inspect_folder import inspect_folder, site_yaml

    site, notes = inspect_folder(Path(data), name)
    target = Path(out or f"{site['name'].replace('-', '_')}.yaml")
    if target.exists():
        raise MedflError(f"{target} exists already; name another file with --out")
    try:
        write_text(target, site_yaml(site, notes))
    except OSError as error:
        raise MedflError(f"{target} cannot be written: {error.strerror}") from None
    with open_terminal() as terminal:
        terminal.say(*notes, f"Site file: {target}")
