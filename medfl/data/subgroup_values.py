"""Subgroups of a site's patches: the cells of its tables, brought to values that are the same at every site."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence

import numpy as np

from medfl.config.spelling import common_form, show
from medfl.data.sources.source import PatchEntry, Source
from medfl.errors import MedflError
from medfl.metrics.subgroups import LONGEST_VALUE, MOST_VALUES, NOT_STATED, SubgroupColumn, bin_names


def subgroup_columns(
    source: Source, entries: Sequence[PatchEntry], groups: Sequence[str]
) -> tuple[SubgroupColumn, ...]:
    """The columns of subgroups that a source's tables have: its own table's, or those of `subgroups.csv`.

    Args:
        source: which was asked for them.
        entries: its patches; groups: the source group of each.

    Raises:
        MedflError: a column of too many values or too long ones, one to be binned that holds no numbers, a
            `subgroups.csv` that names none of the groups.
    """
    return tuple(_columns(source, entries, groups)) if source.spec.subgroups else ()


def _columns(source: Source, entries: Sequence[PatchEntry], groups: Sequence[str]) -> Iterator[SubgroupColumn]:
    table = source.subgroup_table()
    for name, edges in source.spec.subgroups.items():
        if any(name in entry.cells for entry in entries):
            cells = [entry.cells.get(name, "") for entry in entries]
        elif name in table:
            if not set(groups) & table[name].keys():
                raise MedflError(
                    f"{source.spec.where}: subgroups.csv of {source.place} names none of the source groups, the first "
                    f"of which is {show(groups[0])}; correct its column source_group"
                )
            cells = [table[name].get(group, "") for group in groups]
        else:
            continue
        yield _column(f"{source.spec.where}: the column {name} of {source.place}", name, edges, cells)


def _column(what: str, name: str, edges: Sequence[float], cells: Sequence[str]) -> SubgroupColumn:
    value_of = {cell: _value(what, edges, cell) for cell in dict.fromkeys(cells)}
    values = sorted(set(value_of.values()) - {NOT_STATED})
    if edges:
        values = [value for value in bin_names(edges) if value in values]
    if len(values) > MOST_VALUES:
        raise MedflError(
            f"{what} has {len(values)} values, and a column of subgroups (`evaluation.subgroups`) may have "
            f"{MOST_VALUES}; bin numbers, `{{{name}: [50, 65]}}`, or write fewer words into the column"
        )
    if long := next((value for value in values if len(value) > LONGEST_VALUE), None):
        raise MedflError(
            f'{what} has the value "{show(long[:LONGEST_VALUE])}...", and one may have {LONGEST_VALUE} characters; '
            f"shorten it"
        )
    number = {value: code for code, value in enumerate(values)} | {NOT_STATED: -1}
    return SubgroupColumn(name, tuple(values), np.array([number[value_of[cell]] for cell in cells], dtype=np.int64))


def _value(what: str, edges: Sequence[float], cell: str) -> str:
    """The value of a cell: the word in its common form, or the bin of the number."""
    word = common_form(cell)
    if word in ("", NOT_STATED):
        return NOT_STATED
    if not edges:
        return word
    try:
        number = float(cell.replace(",", "."))
    except ValueError:
        number = float("nan")
    if not abs(number) < float("inf"):
        raise MedflError(
            f'{what} is binned (`evaluation.subgroups`), and "{show(cell[:LONGEST_VALUE])}" is no number; correct it, '
            f"or leave the cell empty"
        )
    return bin_names(edges)[bisect.bisect_right(edges, number)]
