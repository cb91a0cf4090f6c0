"""The tables of scores that a site writes for itself: a row a patch, a slide, a patient. None of them leaves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfl.data.atomic_file import open_private
from medfl.data.bag_store import SiteStore
from medfl.data.patch_store import PatchStore
from medfl.data.table_cells import NeutralWriter
from medfl.errors import MedflError
from medfl.metrics.units import NO_CLASS, Units
from medfl.runs.model_facts import unit_top
from medfl.site.measurement import store_units

Probs = NDArray[np.float64]


class Table(NamedTuple):
    """What stands before the probabilities: headings, and the cells of every row."""

    headings: list[str]
    rows: list[list[str]]


def write_predictions(directory: Path, store: SiteStore, probs: Probs, facts: Mapping[str, Any]) -> None:
    """`<site>.csv`: id, slide where patches are of slides, source_group, label, p_<class>... for every test patch; and
    `<site>.slides.csv` and `<site>.patients.csv` where there are several patches of one: its name, source_group, label,
    patches, p_<class>... Probabilities have 9 digits; a label is empty where the patches do not agree on one.

    Args:
        directory: where they are written.
        store: the site's patches or bags.
        probs: calibrated probabilities [n, C] of its test split.
        facts: model.json.
    """
    rows, classes = store.splits["test"], list(facts["classes"])
    units = store_units(store, rows, classes, tuple(facts.get("malignant") or ()), unit_top(facts))
    path = directory / f"{store.site}.csv"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _write(path, _patch_table(store, rows, classes), classes, probs)
        for key, own in units.items():
            path = directory / f"{store.site}.{key}.csv"
            _write(path, _unit_table(store, key, own), classes, own.scores(probs))
    except OSError as error:
        raise MedflError(f"--predictions: {path} cannot be written ({error.strerror})") from None


def _patch_table(store: SiteStore, rows: NDArray[np.int64], classes: Sequence[str]) -> Table:
    """A row a patch."""
    slides = store.slides if isinstance(store, PatchStore) else None
    names = store.slide_names if isinstance(store, PatchStore) else ()
    table = Table(["id", *([] if slides is None else ["slide"]), "source_group", "label"], [])
    for row in rows:
        slide = [] if slides is None else [names[slides[row]]]
        table.rows.append([store.names[row], *slide, store.group_names[store.groups[row]], classes[store.labels[row]]])
    return table


def _unit_table(store: SiteStore, key: str, units: Units) -> Table:
    """A row a slide, or a row a patient."""
    of_slides = key == "slides" and isinstance(store, PatchStore)
    table = Table([*(["slide"] if of_slides else []), "source_group", "label", "patches"], [])
    for number, group, label, size in zip(units.numbers, units.groups, units.labels, units.sizes, strict=True):
        slide = [store.slide_names[number]] if of_slides and isinstance(store, PatchStore) else []
        word = "" if label == NO_CLASS else units.classes[label]
        table.rows.append([*slide, store.group_names[group], word, str(size)])
    return table


def _write(path: Path, table: Table, classes: Sequence[str], probs: Probs) -> None:
    with open(path, "w", newline="", encoding="utf-8", opener=open_private) as stream:
        writer = NeutralWriter(stream, lineterminator="\n")
        writer.writerow([*table.headings, *(f"p_{name}" for name in classes)])
        for row, scores in zip(table.rows, probs, strict=True):
            writer.writerow([*row, *(f"{score:.9g}" for score in scores)])
