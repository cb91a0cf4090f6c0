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


@init_app.command("pipeline")
def init_pipeline(
    train: Annotated[list[str] | None, typer.Option(metavar="FILE", help="A site that trains; once for each.")] = None,
    held_out: Annotated[
        list[str] | None, typer.Option("--held-out", metavar="FILE", help="A site that is only measured.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the pipeline.")] = None,
    classes: Annotated[str | None, typer.Option(metavar="A,B", help="Class names; default: the sites' own.")] = None,
    malignant: Annotated[str | None, typer.Option(metavar="A,B", help="Those of them that are malignant.")] = None,
    size: Annotated[int | None, typer.Option(min=16, help="Pixels a side; default: as the images are.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds of training; default 30.")] = None,
    out: Annotated[str | None, typer.Option(help="File to write; default: <name>.yaml.")] = None,
) -> None:
    """Write a commented pipeline for some site files. On a terminal, without --train, it asks."""
    from medfl.data.atomic_file import write_text
    from medfl.pipeline.propose_pipeline import Wishes, propose, site_files

    with open_terminal() as terminal:
        trains, others, called, bad = train or [], held_out or [], name or "hospitals", malignant
        if not train and terminal.asks:
            present = [path.name for path in site_files(Path())]
            trains = terminal.ask("Site files that train", " ".join(present)).split()
            rest = [path for path in present if path not in trains]
            others = held_out or terminal.ask("Site files held out", " ".join(rest)).split()
            called = name or terminal.ask("Name", "hospitals")
            bad = malignant or terminal.ask("Malignant classes, with commas", "")
            rounds = rounds or _whole(terminal.ask("Rounds", "30"))
        target = Path(out or f"{called.replace('-', '_')}.yaml")
        if target.exists():
            raise MedflError(f"{target} exists already; name another file with --out")
        wishes = Wishes(
            name=called,
            train=[Path(file) for file in trains],
            held_out=[Path(file) for file in others],
            classes=_words(classes) or None,
            malignant=_words(bad),
            size=size,
            rounds=rounds or 30,
        )
        text, notes = propose(wishes, target)
        try:
            write_text(target, text)
        except OSError as error:
            raise MedflError(f"{target} cannot be written: {error.strerror}") from None
        terminal.say(*notes, f"Pipeline: {target}", f"Next: medfl data check {target}, medfl run {target} --dry-run")


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def _whole(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise MedflError(f"Rounds: {text!r} is no whole number above 0")
    return int(text)
