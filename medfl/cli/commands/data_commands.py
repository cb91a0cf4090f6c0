"""Commands that look into data: how it is dealt, which images are copies, and whether one leaks into test data."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfl.cli.commands.common import PipelineFile, Set, about, open_terminal
from medfl.errors import MedflError

if TYPE_CHECKING:
    from medfl.cli.terminal import Terminal
    from medfl.data.duplicates.leakage import Search
    from medfl.data.partition import Partition

SHOWN, ROWS = 10, 20  # items of a list and rows of a table that may be long
OVERLAP = 0.75  # augmented copies of one tile share more, neighbouring photographs of one slide less
Overlap = Annotated[
    float, typer.Option(min=0, max=1, help="How much of the smaller field two images share to count as copies.")
]

data_app = typer.Typer(
    help="Look into the data of a pipeline or a folder.", no_args_is_help=True, rich_markup_mode=None
)


@data_app.command("check")
def data_check(
    pipeline: PipelineFile,
    set_: Set = None,
    copies: Annotated[
        bool, typer.Option(help="Search the images for near-copies: minutes for some thousand images.")
    ] = True,
) -> None:
    """Prove that no source group is in two places; print class mix, patches and groups per site and split.

    Tells which images are left out, which are in training and in a test, and which have two labels; exit code 1 for a
    near-copy in training data of a patch that is tested on. A site whose patches are nearly constant or unlike any
    other's is a warning.
    """
    from medfl.cli.console_tables import print_partition
    from medfl.data.catalog import counted_words
    from medfl.data.grey_levels import file_warnings
    from medfl.data.partition import make_partition
    from medfl.data.subgroup_notes import subgroup_rows, without_subgroups
    from medfl.pipeline.load_pipeline import load_pipeline

    with open_terminal() as terminal, about(pipeline):
        loaded = load_pipeline(pipeline, set_ or [])
        partition = make_partition(loaded)  # it proves disjointness, or raises
        words = counted_words(share.catalog for share in partition.sites)
        print_partition(terminal, partition.counts(), loaded.task.classes, words)
        if rows := subgroup_rows(partition):
            terminal.table(
                f"Subgroups: {words} (source groups)", ["site", "column", "value", "all", "test"], rows, keys=3
            )
        notes = partition.dropped(), partition.left_out(), without_subgroups(partition), partition.namesakes()
        for sentence in itertools.chain(*notes):
            terminal.say(sentence)
        terminal.say(
            "Disjoint: every source group is in one site and one split only."
            if not partition.groups_unknown
            else "LEAKY: source groups are ignored, so near-copies of test patches may be in training."
        )
        for warning in _bag_warnings(partition) if loaded.model.mil else file_warnings(partition):
            terminal.say(f"WARNING: {warning}")
        if loaded.model.mil:
            terminal.say("Near-copies: not looked for, since features are no pictures; source groups are patients.")
        elif copies:
            from medfl.data.duplicates.leakage import find_leaks

            with terminal.steps(lines=False) as progress:
                skip = loaded.data.on_bad_image == "skip"
                leakage = find_leaks(partition, OVERLAP, skip, progress, two_labels=True)
            _print_search(terminal, leakage, fail=not partition.groups_unknown)


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
        with terminal.steps() as progress:
            grouping = group_folder(Path(root), overlap, progress)
        grouping.write(target)
        for name, reason in grouping.unreadable.items():
            terminal.say(f"Cannot be read, a group of its own: {name} ({reason})")
        sizes = grouping.sizes
        terminal.say(
            f"Images: {len(grouping.names):,}; groups: {len(sizes):,}; groups of several images: "
            f"{sum(size > 1 for size in sizes):,}, the largest of {max(sizes):,}; images without a copy: "
            f"{sizes.count(1):,}"
        )
        across = grouping.across_classes()
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
    from medfl.data.duplicates.leakage import find_leaks
    from medfl.data.partition import make_partition
    from medfl.pipeline.load_pipeline import load_pipeline

    target = _new_file(out) if out else None
    with open_terminal() as terminal, about(pipeline):
        loaded = load_pipeline(pipeline, set_ or [])
        partition = make_partition(loaded)
        with terminal.steps() as progress:
            leakage = find_leaks(partition, overlap, loaded.data.on_bad_image == "skip", progress)
        if target:
            leakage.write(target)
            terminal.say(f"Pairs: {target}")
        _print_search(terminal, leakage)


def _bag_warnings(partition: Partition) -> list[str]:
    from medfl.data.render_bags import bag_warnings

    return bag_warnings(partition)


def _print_search(terminal: Terminal, leakage: Search, fail: bool = True) -> None:
    """What a search for near-copies found. Raises CopiesLeak for one that leaks, if that is a failure."""
    from medfl.data.duplicates.leakage import CopiesLeak

    for path, reason in leakage.unreadable.items():
        terminal.say(f"Cannot be read, left out: {path} ({reason})")
    _print_crossings(terminal, leakage)
    contradictions = leakage.contradictions()
    for pair in contradictions[:SHOWN]:
        one, other = leakage.ends(pair)
        classes = f"{leakage.classes[one]}, {leakage.classes[other]}"
        terminal.say(f"Two labels ({classes}): {leakage.show(one)}", f"  = {leakage.show(other)}")
    if contradictions:
        terminal.say(
            f"Pairs of one image, or of near-copies, under two labels: {len(contradictions):,}; correct one of the two"
        )
    leaked, tested = leakage.tested()
    if leaked:
        sentence = (
            f"{leaked:,} of {tested:,} test patches have a near-copy in training data; within one folder name the "
            f"CSV that `medfl data group` writes under `data.source_groups`, between two sites remove one of the two"
        )
        if fail:
            raise CopiesLeak(sentence)
        terminal.say(sentence)
        return
    partial = sum(c.partial for c in leakage.crossings() if (c.one.split, c.other.split) == ("train", "test"))
    rest = f"; {partial:,} pairs of training and test patches share less than {leakage.overlap:g}" if partial else ""
    terminal.say(
        f"None of {tested:,} test patches has a near-copy in training data ({len(leakage.locations):,} images "
        f"searched){rest}"
    )


def _print_crossings(terminal: Terminal, leakage: Search) -> None:
    """The pairs of images that show the same tissue, counted by place, and those that leak one by one."""
    crossings = leakage.crossings()
    if crossings:
        columns = ["between", "copies", "patches here", "patches there", "partial overlaps", ""]
        rows = [
            [f"{c.one} - {c.other}", *map(str, (c.pairs, *c.patches, c.partial)), "LEAK" if c.leak else ""]
            for c in crossings[:ROWS]
        ]
        terminal.table("Pairs of images that show the same tissue", columns, rows)
        if len(crossings) > ROWS:
            terminal.say(f"and between {len(crossings) - ROWS:,} more pairs of places; all pairs with --out")
    for pair in leakage.leaks()[:SHOWN]:
        one, other = map(leakage.show, leakage.ends(pair))
        terminal.say(one, f"  = {other}  (overlap {pair.overlap:.2f}, {pair.matches} matches)")


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
