"""Which columns of the sites' tables tell subgroups apart, whose figures stand beside those of all patches."""

from __future__ import annotations

import itertools
from typing import Annotated

from pydantic import AfterValidator, Field

from medfl.config.spelling import SpeltName, letters

RESERVED = ("path", "label", "source_group", "filename", "slide", "slide_id", "patient", "case_id", "site", "mpp")
"""Columns that mean something to the tables themselves."""
LONGEST = 60  # characters of a column's name

Entry = SpeltName | dict[SpeltName, list[float]]


def column_edges(entries: list[Entry]) -> dict[str, tuple[float, ...]]:
    """Column -> the numbers that part its bins; none for a column of words."""
    return {name: tuple(edges) for name, edges in _columns(entries)}


def _columns(entries: list[Entry]) -> list[tuple[str, list[float]]]:
    return [pair for entry in entries for pair in ([(entry, [])] if isinstance(entry, str) else entry.items())]


def _checked(entries: list[Entry]) -> list[Entry]:
    before: set[str] = set(map(letters, RESERVED))
    for name, edges in _columns(entries):
        form = letters(name)
        if not form or len(name) > LONGEST:
            raise ValueError(f"the name of a column has 1 to {LONGEST} letters")
        if form in before:
            raise ValueError(f"{name} stands twice, or means something to every table; name another column")
        before.add(form)
        if any(one >= other for one, other in itertools.pairwise(edges)):
            raise ValueError(f"the edges of {name} must rise, for example {{{name}: [50, 65]}}")
    if any(not edges for entry in entries if isinstance(entry, dict) for edges in entry.values()):
        raise ValueError("a column that is binned has at least one edge, for example {age: [50, 65]}")
    return entries


SubgroupEntries = Annotated[list[Entry], Field(min_length=1), AfterValidator(_checked)]
"""`[scanner, sex, {age: [50, 65]}]`."""
