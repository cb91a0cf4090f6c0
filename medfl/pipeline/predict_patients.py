"""Scores per slide and per patient of a folder that a model has scored, by a table that says whose the files are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from medfl.config.spelling import one_form, show
from medfl.data.sources.csv_table import Row, read_rows
from medfl.errors import MedflError
from medfl.metrics.auroc import FloatArray
from medfl.metrics.units import UNITS, units_of
from medfl.runs.model_facts import unit_top

OPTION = "--patients"
COLUMNS = [("file", "patient"), ("slide", "patient")]


@dataclass(frozen=True)
class Owners:
    """Whose the files of a folder are.

    Attributes:
        table: where that is said.
        rows: file, or slide without a file, -> its row.
        of_slides: whether rows name slides, and no files.
    """

    table: Path
    rows: Mapping[str, Row]
    of_slides: bool

    def of(self, names: Sequence[str]) -> list[Row | None]:
        """The row of each file or slide, None where there is none. A slide may be called without its folder and ending,
        where no other is called so."""
        stems = [one_form(PurePosixPath(name).stem) for name in names]
        alone = {stem for stem, count in Counter(stems).items() if count == 1 and self.of_slides}
        pairs = zip(names, stems, strict=True)
        return [
            self.rows.get(one_form(name)) or (self.rows.get(stem) if stem in alone else None) for name, stem in pairs
        ]


def read_owners(table: Path) -> Owners:
    """A table `file,patient[,slide]`, or `slide,patient`. Raises MedflError for one that is none, or names a file
    twice."""
    rows: dict[str, Row] = {}
    of_slides = False
    for row in read_rows(table, OPTION, COLUMNS, optional=("slide",)):
        of_slides = "file" not in row.cells
        name = one_form(row["slide" if of_slides else "file"].replace("\\", "/"))
        if name in rows:
            raise MedflError(f"{OPTION}: {table}, line {row.line}: {show(name)} stands twice; keep one row of it")
        rows[name] = row
    return Owners(table, rows, of_slides)


def score_units(
    scored: Sequence[tuple[str, Sequence[float]]],
    owners: Owners,
    facts: Mapping[str, Any],
    tiles: Mapping[str, FloatArray] | None = None,
) -> dict[str, list[list[str]]]:
    """The tables per slide and per patient, by the keys of `medfl.metrics.units.UNITS`: headings, then rows.

    Args:
        scored: (file or slide, probability per class) of a folder.
        owners: whose they are.
        facts: model.json.
        tiles: slide -> probabilities [n, C] of its tiles, where a patient is scored by all tiles of its slides, as the
            run measured it.

    Raises:
        MedflError: what was scored has no row.
    """
    row_of = owners.of([name for name, _ in scored])
    missing = [name for (name, _), row in zip(scored, row_of, strict=True) if row is None]
    if missing:
        raise MedflError(
            f"{OPTION}: {len(missing)} of {len(scored)} have no row in {owners.table}, the first is "
            f"{show(missing[0])}; add the rows"
        )
    rows = [row for row in row_of if row is not None]
    names: dict[str, list[str]] = {"patients": [row["patient"] for row in rows]}
    if not owners.of_slides and all(row.get("slide", "") for row in rows):
        names["slides"] = [row["slide"] for row in rows]
    numbered = {key: np.unique(own, return_inverse=True) for key, own in names.items()}
    probs, counts = np.array([own for _, own in scored], dtype=np.float64), np.ones(len(rows), dtype=np.int64)
    if tiles is not None:
        counts = np.array([len(tiles[name]) for name, _ in scored])
        probs = np.concatenate([tiles[name] for name, _ in scored])
    slides = np.repeat(numbered["slides"][1], counts) if "slides" in numbered else None
    made = units_of(
        np.zeros(len(probs), dtype=np.int64),  # not known, and not read
        np.repeat(numbered["patients"][1], counts),
        slides,
        facts["classes"],
        tuple(facts.get("malignant") or ()),
        unit_top(facts),
    )
    tables = {}
    for key, units in made.items():
        counted = "slides" if owners.of_slides else "files"
        head = [[UNITS[key], counted, *(f"p_{name}" for name in facts["classes"])]]
        sizes = np.bincount(numbered[key][1])
        lines = zip(units.numbers.tolist(), sizes.tolist(), units.scores(probs).tolist(), strict=True)
        own_names = numbered[key][0].tolist()
        tables[key] = head + [[own_names[n], str(size), *(f"{p:.6f}" for p in own)] for n, size, own in lines]
    return tables
