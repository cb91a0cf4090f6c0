"""A CSV that says which images were cut from one source: `label,filename,source_group` or `path,source_group`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medfl.config.spelling import one_form, show
from medfl.data.sources.csv_table import read_rows
from medfl.data.sources.source import PatchEntry, SourceSpec
from medfl.errors import MedflError

GROUPS_CSV = "source_groups.csv"
COLUMNS = [("label", "filename", "source_group"), ("path", "source_group")]
SUBGROUPS_CSV = "subgroups.csv"


def look_up_groups(table: Path, entries: Sequence[PatchEntry], spec: SourceSpec) -> list[str]:
    """The group of every listed image file; labels may be the files' own words or those of `task.classes`.

    Raises:
        MedflError: the CSV is bad, gives an image two groups, or lacks images.
    """
    group_of: dict[tuple[str, ...], str] = {}
    for row in read_rows(table, spec.where, COLUMNS):
        written = (row["label"], row["filename"]) if "label" in row.cells else (row["path"].replace("\\", "/"),)
        key, group = tuple(map(one_form, written)), one_form(row["source_group"])
        if group_of.setdefault(key, group) != group:
            raise MedflError(
                f"{spec.where}: {table}, line {row.line}: {'/'.join(key)} has two source groups; keep one row of it"
            )
    names, missing = [], []
    for entry in entries:
        word, reference = one_form(entry.word), one_form(entry.reference)
        words = (word, (spec.labels or {}).get(word) or word)
        file_names = (one_form(entry.key), reference.rpartition("/")[2])
        keys = [(reference,), *((word, name) for word in words for name in file_names)]
        names.append(next((group_of[key] for key in keys if key in group_of), ""))
        if not names[-1]:
            missing.append(entry.name)
    if missing:
        raise MedflError(
            f"{spec.where}: {len(missing)} of {len(entries)} images have no row in {table} (`data.source_groups`), "
            f"the first is {missing[0]}; add the rows"
        )
    return names


def subgroup_cells(table: Path, spec: SourceSpec) -> dict[str, dict[str, str]]:
    """Column of subgroups -> source group -> cell, from a CSV `source_group,scanner,...`.

    Raises:
        MedflError: the CSV is bad, or has two rows for a group that say different things.
    """
    columns = tuple(spec.subgroups)
    made: dict[str, dict[str, str]] = {}
    for row in read_rows(table, spec.where, [("source_group",)], columns):
        group = one_form(row["source_group"])
        for name, cell in row.part(columns).items():
            if made.setdefault(name, {}).setdefault(group, cell) != cell:
                raise MedflError(
                    f"{spec.where}: {table}, line {row.line}: the source group {show(group)} has another {name} than "
                    f"before; keep one row of it"
                )
    return made
