"""Commands that look: into the data of a pipeline, at its sites, into a folder, at the methods."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfl.cli.commands.common import PipelineFile, Set, about, open_terminal
from medfl.errors import MedflError

if TYPE_CHECKING:
    from medfl.cli.terminal import Terminal
    from medfl.data.duplicates.keypoints import Progress

SHOWN, ROWS = 10, 20  # items of a list and rows of a table that may be long
OVERLAP = 0.75  # augmented copies of one tile share more, neighbouring photographs of one slide less
Overlap = Annotated[
    float, typer.Option(min=0, max=1, help="How much of the smaller field two images share to count as copies.")
]

data_app = typer.Typer(
    help="Look into the data of a pipeline or a folder.", no_args_is_help=True, rich_markup_mode=None
)
sites_app = typer.Typer(help="Look at sites.", no_args_is_help=True, rich_markup_mode=None)
init_app = typer.Typer(help="Write a starting file.", no_args_is_help=True, rich_markup_mode=None)


def methods() -> None:
    """List the methods, with their parameters and what each may share a chain with."""
    from medfl.methods.core.method_table import method_table

    with open_terminal() as terminal:
        columns = ["name", "parameters", "what it does", "goes with"]
        terminal.table("Methods; an empty chain is FedAvg", columns, method_table())
        terminal.say(
            "In place of a federation: `baseline: local_only` (each site trains its own model) or `baseline: "
            "centralised` (the training data of all sites pooled in one place)"
        )


@data_app.command("check")
def data_check(pipeline: PipelineFile, set_: Set = None) -> None:
    """Prove that no source group is in two places; print class mix, patches and groups per site and split."""
    from medfl.data.partition import make_partition
    from medfl.pipeline.load_pipeline import load_pipeline

    with open_terminal() as terminal, about(pipeline):
        loaded = load_pipeline(pipeline, set_ or [])
        allocation = make_partition(loaded)  # it proves disjointness, or raises
        terminal.allocation(allocation.summary(), loaded.task.classes)
        terminal.say(
            "Disjoint: every source group is in one site and one split only."
            if not allocation.groups_unknown
            else "LEAKY: source groups are ignored, so near-copies of test patches may be in training."
        )


@data_app.command("group")
def data_group(
    root: Annotated[str, typer.Argument(metavar="ROOT", help="The folder of images, at any depth.")],
    out: Annotated[str, typer.Option(help="CSV to write: path,source_group.")] = "groups.csv",
    overlap: Overlap = OVERLAP,
) -> None:
    """Find images that are copies of one tile (turned, mirrored, zoomed) and write them as source groups.

    The CSV may be named under data.source_groups of a pipeline or site file whose data.root is ROOT.
    """
    from medfl.data.duplicates.group_folder import group_folder

    target = _new_file(out)
    with open_terminal() as terminal:
        with _progress(terminal) as progress:
            found = group_folder(Path(root), overlap, progress)
        found.write(target)
        for name, reason in found.unreadable.items():
            terminal.say(f"Cannot be read, a group of its own: {name} ({reason})")
        sizes = found.sizes
        terminal.say(
            f"Images: {len(found.names):,}; groups: {len(sizes):,}; groups of several images: "
            f"{sum(size > 1 for size in sizes):,}, the largest of {max(sizes):,}; images without a copy: "
            f"{sizes.count(1):,}"
        )
        across = found.across_classes()
        for first, classes in across[:SHOWN]:
            counted = ", ".join(f"{folder or '.'} {count}" for folder, count in classes.items())
            terminal.say(f"In several class folders: {first} and its copies ({counted})")
        if len(across) > SHOWN:
            terminal.say(f"In several class folders: {len(across) - SHOWN:,} more groups")
        terminal.say(f"Source groups: {target}")


@data_app.command("leak")
def data_leak(
    pipeline: PipelineFile,
    set_: Set = None,
    out: Annotated[str | None, typer.Option(help="CSV to write: every pair found, with its files.")] = None,
    overlap: Overlap = OVERLAP,
) -> None:
    """Search the images of all sites and splits for near-copies that cross; exit code 1 if one leaks.

    It leaks where a patch that is trained on has a near-copy in test data, of the same or of any other site. Source
    groups are not looked at, only pixels.
    """
    from medfl.data.duplicates.leakage import CopiesLeak, find_leaks
    from medfl.data.partition import make_partition
    from medfl.pipeline.load_pipeline import load_pipeline

    target = _new_file(out) if out else None
    with open_terminal() as terminal, about(pipeline):
        loaded = load_pipeline(pipeline, set_ or [])
        allocation = make_partition(loaded)
        with _progress(terminal) as progress:
            found = find_leaks(allocation, overlap, loaded.data.on_bad_image == "skip", progress)
        for path, reason in found.unreadable.items():
            terminal.say(f"Cannot be read, left out: {path} ({reason})")
        if target:
            found.write(target)
            terminal.say(f"Pairs: {target}")
        crossings = found.crossings()
        if crossings:
            columns = ["between", "copies", "patches here", "patches there", "partial overlaps", ""]
            rows = [
                [f"{c.one} - {c.other}", *map(str, (c.pairs, *c.patches, c.partial)), "LEAK" if c.leak else ""]
                for c in crossings[:ROWS]
            ]
            terminal.table("Pairs of images that show the same tissue", columns, rows)
            if len(crossings) > ROWS:
                terminal.say(f"and between {len(crossings) - ROWS:,} more pairs of places; all pairs with --out")
        leaks = found.leaks()
        for pair in leaks[:SHOWN]:
            one, other = map(found.show, found.ends(pair))
            terminal.say(f"{one}\n  = {other}  (overlap {pair.overlap:.2f}, {pair.matches} matches)")
        leaked, tested = found.tested()
        if leaks:
            raise CopiesLeak(
                f"{leaked:,} of {tested:,} test patches have a near-copy in training data; within one folder name the "
                f"CSV that `medfl data group` writes under `data.source_groups`, between two sites remove one of "
                f"the two"
            )
        partial = sum(c.partial for c in crossings if (c.one.split, c.other.split) == ("train", "test"))
        rest = f"; {partial:,} pairs of training and test patches share less than {overlap:g}" if partial else ""
        terminal.say(
            f"None of {tested:,} test patches has a near-copy in training data ({len(found.paths):,} images "
            f"searched){rest}"
        )


@contextlib.contextmanager
def _progress(terminal: Terminal) -> Iterator[Progress]:
    """A bar for each step on a terminal, elsewhere a line when it is finished."""
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    with Bars(console=terminal.out, transient=True, disable=not terminal.live) as bars:
        tasks: dict[str, TaskID] = {}

        def show(step: str, done: int, total: int) -> None:
            if not terminal.live and done == total:
                terminal.say(f"{step}: {total:,}")
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=total)
            bars.update(tasks[step], completed=done)

        yield show


def _new_file(name: str) -> Path:
    """A file that can be written and is not there yet: better known before a long search than after it."""
    path = Path(name)
    if path.exists():
        raise MedflError(f"{path} exists already; name another file with --out")
    try:
        path.touch()
        path.unlink()
    except OSError as error:
        raise MedflError(f"{path} cannot be written: {error.strerror}; name another file with --out") from None
    return path


@sites_app.command("preview")
def sites_preview(
    pipeline: PipelineFile,
    set_: Set = None,
    out: Annotated[str, typer.Option(help="Picture to write.")] = "sites.png",
) -> None:
    """Write one picture: a row of patches per site, as the model will see them."""
    from medfl.data.partition import make_partition
    from medfl.data.preview import preview
    from medfl.data.render import render
    from medfl.pipeline.load_pipeline import load_pipeline

    with about(pipeline):
        loaded = load_pipeline(pipeline, set_ or [])
        by_name = {site.name: site for site in loaded.all_sites}
        stores = [render(loaded, by_name[share.site], share) for share in make_partition(loaded).sites]
        preview(stores, Path(out), loaded)
    print(f"Picture: {out}")


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
    for note in notes:
        print(note)
    print(f"Site file: {target}")
