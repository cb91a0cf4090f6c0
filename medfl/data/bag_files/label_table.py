"""The tables that say whose a slide is and what it shows, as other tools have them.

    slide, patient, label           CLAM: case_id,slide_id,label; slideflow: patient,slide,label; patient,filename,label
    patient, label and the slides   STAMP: a clinical table PATIENT,<label> and a slide table PATIENT,FILENAME

The column of the label is called `label`, or as `data.features.label` says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medfl.config import FeatureTables
from medfl.config.spelling import one_form, show
from medfl.data.bag_files.bag_layout import slide_name
from medfl.data.sources.csv_table import Row, read_rows
from medfl.errors import MedflError

USUAL = ("slides.csv", "labels.csv")
SLIDES_OF = (("patient", "slide"), ("case_id", "slide_id"), ("patient", "filename"))


@dataclass(frozen=True)
class LabelledSlide:
    """A slide as the tables have it; `cells` are those of the columns of subgroups that they have."""

    slide: str
    patient: str
    label: str
    cells: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LabelTable:
    """What the tables say.

    Attributes:
        file: the table that lists slides.
        slides: slide -> what it is, in the order of the table.
        unlabelled: slides whose patient has no label.
    """

    file: Path
    slides: dict[str, LabelledSlide]
    unlabelled: tuple[str, ...] = ()


def read_labels(tables: FeatureTables, root: Path, where: str, subgroups: Sequence[str] = ()) -> LabelTable:
    """The labelled slides of a root. `where` begins messages; `subgroups` are columns that the tables may have.

    Raises:
        MedflError: no table, a table without the columns asked for, a slide listed twice, a patient with two labels
            where labels are a patient's.
    """
    file, label = _table(tables, root, where), tables.label or "label"
    if tables.slide_table is None:
        rows = read_rows(file, where, [(*columns, label) for columns in SLIDES_OF], tuple(subgroups))
        slides = {
            slide: LabelledSlide(slide, patient, row[label], row.part(subgroups))
            for slide, patient, row in _slides(rows, file, where)
        }
        return LabelTable(file, slides)
    labels, cells = _labels_of_patients(file, label, where, subgroups)
    listing = Path(tables.slide_table)
    slides, unlabelled = {}, []
    for slide, patient, row in _slides(read_rows(listing, where, SLIDES_OF, tuple(subgroups)), listing, where):
        if patient in labels:
            slides[slide] = LabelledSlide(slide, patient, labels[patient], {**cells[patient], **row.part(subgroups)})
        else:
            unlabelled.append(slide)
    if not slides:
        raise MedflError(f"{where}: no patient of {listing} has a row in {file}; correct `data.features`")
    return LabelTable(listing, slides, tuple(unlabelled))


def _table(tables: FeatureTables, root: Path, where: str) -> Path:
    """The table that is named, or one in a usual place."""
    if tables.table is not None:
        return Path(tables.table)
    if (file := next((root / name for name in USUAL if (root / name).is_file()), None)) is not None:
        return file
    raise MedflError(
        f"{where}: nothing says what the slides of {root} show; name a CSV with the columns patient,slide,label (or "
        f"case_id,slide_id,label) under `data.features.table`, or lay it into the folder as {USUAL[0]}"
    )


def _slides(rows: list[Row], file: Path, where: str) -> list[tuple[str, str, Row]]:
    """(slide, patient, row) of each row. Raises MedflError for a slide that is listed twice."""
    lines: dict[str, int] = {}
    slides = []
    for row in rows:
        patient_column, slide_column = next(pair for pair in SLIDES_OF if set(pair) <= set(row.cells))
        slide = slide_name(row[slide_column])
        if slide in lines:
            raise MedflError(
                f"{where}: {file}, line {row.line}: the slide {show(slide)} is listed twice, first in line "
                f"{lines[slide]}; remove one row"
            )
        lines[slide] = row.line
        slides.append((slide, one_form(row[patient_column]), row))
    return slides


def _labels_of_patients(
    file: Path, label: str, where: str, subgroups: Sequence[str]
) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Patient -> label of a clinical table, and patient -> cells of columns of subgroups, as in its first row."""
    labels: dict[str, str] = {}
    cells: dict[str, dict[str, str]] = {}
    for row in read_rows(file, where, [("patient", label), ("case_id", label)], tuple(subgroups)):
        patient = one_form(row.cells.get("patient") or row["case_id"])
        if labels.setdefault(patient, row[label]) != row[label]:
            raise MedflError(
                f"{where}: {file}, line {row.line}: the patient {show(patient)} has the labels "
                f"{show(labels[patient])} and {show(row[label])}; keep one row of it"
            )
        cells.setdefault(patient, row.part(subgroups))
    return labels, cells
