"""Commands about the cache: what it holds, whether that is sound, and what killed processes left in it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfl.cli.commands.common import Yes, confirm, open_terminal
from medfl.errors import MedflError

if TYPE_CHECKING:
    from medfl.data.cache_folder import CacheEntry

KEY = "data.key"
cache_app = typer.Typer(
    help="Look into the cache of rendered patches, check it, clean it.", no_args_is_help=True, rich_markup_mode=None
)
CacheFolder = Annotated[
    str | None,
    typer.Argument(metavar="CACHE", help="The folder; default: MEDFL_CACHE, else ~/.cache/medfl."),
]


@cache_app.command("ls")
def cache_ls(cache: CacheFolder = None) -> None:
    """List what the cache holds and what it takes."""
    from medfl.data.cache_folder import entries, unfinished

    with open_terminal() as terminal:
        folder = _folder(cache)
        listing = [*entries(folder), *unfinished(folder)]
        if listing:
            rows = [[_name(entry, folder), _megabytes(entry.size), entry.text] for entry in listing]
            terminal.table(str(folder), ["folder", "MB", "what it is"], rows)
        terminal.say(f"{folder}: {len(listing)} folders, {_megabytes(sum(entry.size for entry in listing))} MB")


@cache_app.command("verify")
def cache_verify(cache: CacheFolder = None) -> None:
    """Read every store of rendered patches whole; remove damaged ones, which are then made anew. Exit code 1 if any."""
    from medfl.data.cache_folder import verify

    with open_terminal() as terminal:
        folder = _folder(cache)
        count = 0
        damaged: list[CacheEntry] = []
        for entry, damage in verify(folder):
            count += 1
            if damage:
                damaged.append(entry)
                terminal.say(f"Damaged: {_name(entry, folder)} ({damage}), {entry.text}")
                _remove(entry)
        if damaged:
            terminal.say(
                f"{len(damaged)} of {count} stores in {folder} were damaged and are removed; the next run that needs "
                f"them renders them again"
            )
            raise typer.Exit(1)
        terminal.say(f"{folder}: {count} stores, all as they were written")


@cache_app.command("clean")
def cache_clean(
    cache: CacheFolder = None,
    outdated: Annotated[
        bool, typer.Option("--outdated", help="Also remove stores that only an earlier version of medfl reads.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Remove all rendered patches, features and notes; asks first.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Remove what killed processes left half made, and say what it took; what is being made now is left alone."""
    from medfl.data.cache_folder import entries, unfinished

    with open_terminal() as terminal:
        folder = _folder(cache)
        if everything:
            listing = [*entries(folder), *unfinished(folder)]
            size = _megabytes(sum(entry.size for entry in listing))
            terminal.say(
                f"All {len(listing)} folders in {folder} go, {size} MB: patches, features and notes on files. Runs "
                f"render them again from the data when they next need them; a run at work fails.",
            )
            confirm(terminal, yes)
            for entry in listing:
                _remove(entry)
            terminal.say(f"{folder}: {size} MB freed; {KEY} stays, with which runs of this machine are compared")
            return
        old = [entry for entry in entries(folder) if entry.outdated]
        listing = [*unfinished(folder), *(old if outdated else [])]
        for entry in listing:
            _remove(entry)
            terminal.say(f"Removed: {_name(entry, folder)}, {_megabytes(entry.size)} MB, {entry.text}")
        terminal.say(f"{folder}: {_megabytes(sum(entry.size for entry in listing))} MB freed")
        if old and not outdated:
            size = _megabytes(sum(entry.size for entry in old))
            terminal.say(f"{len(old)} stores of an earlier version take {size} MB; --outdated removes them too")


def _folder(cache: str | None) -> Path:
    from medfl.config.pipeline_config import default_cache

    folder = Path(cache).expanduser() if cache else default_cache()
    if not folder.is_dir():
        raise MedflError(f"there is no cache {folder}; name the folder that `data.cache` or MEDFL_CACHE names")
    return folder


def _remove(entry: CacheEntry) -> None:
    """Remove an entry. Raises MedflError where that cannot be done."""
    try:
        shutil.rmtree(entry.path)
    except OSError as error:
        raise MedflError(f"{entry.path} cannot be removed ({error.strerror}); remove it by hand") from None


def _name(entry: CacheEntry, folder: Path) -> str:
    return entry.path.relative_to(folder).as_posix()


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f}"
