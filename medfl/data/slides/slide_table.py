"""`slides.csv`, what a group knows of its slides: `slide,patient,label[,site][,mpp]`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medfl.config.spelling import one_form
from medfl.data.slides.slide_folder import SlideFiles
from medfl.data.sources.csv_table import read_rows
from medfl.errors import MedflError, nearest

SLIDES_CSV = "slides.csv"
COLUMNS = [("slide", "patient"), ("slide", "label")]


@dataclass(frozen=True)
class SlideFacts:
    """One slide's row: empty texts and None where the table does not say; `line` counts from 1 with the header, `cells`
    are those of the columns of subgroups that the table has."""

    line: int
    patient: str = ""
    label: str = ""
    site: str = ""
    mpp: float | None = None
    cells: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SlideTable:
    """The rows of a table by the slides' names, and sentences about them."""

    facts: dict[str, SlideFacts]
    has_sites: bool
    notes: tuple[str, ...] = ()


def read_slide_table(path: Path, slides: Sequence[SlideFiles], where: str, subgroups: Sequence[str] = ()) -> SlideTable:
    """Read a table of slides.

    A slide is named by its file, with or without its folder and ending. Patients whose slides have several labels are
    noted: so it is with lymph nodes, and so is a slip.

    Raises:
        MedflError: a row of no slide or of several, a slide in two rows, a resolution that is none, a table that cannot
            be read.
    """
    rows = read_rows(path, where, COLUMNS, ("patient", "label", "site", "mpp", *subgroups))
    by_form: dict[str, set[str]] = {}
    for slide in slides:
        for form in (slide.name, slide.name.rpartition("/")[2], slide.stem):
            by_form.setdefault(form, set()).add(slide.name)
    facts: dict[str, SlideFacts] = {}
    labels: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        start = f"{where}: {path}, line {row.line}"
        text = one_form(row["slide"].replace("\\", "/"))
        names = by_form.get(text, set())
        if len(names) != 1:
            problem = f"may be {' or '.join(sorted(names))}" if names else "names no slide"
            remedy = f"write its file's name, relative to {path.parent}" if names else "correct it or remove the row"
            raise MedflError(f"{start}: {text} {problem}; {remedy}.{'' if names else nearest(text, by_form)}")
        (name,) = names
        patient, label, site = (one_form(row.get(key, "")) for key in ("patient", "label", "site"))
        if name in facts:
            before = facts[name]
            there = f"site {before.site} and site {site}" if before.site != site else "two rows"
            raise MedflError(
                f"{start}: the slide {text} stands in {there} (the other is line {before.line}); a slide is at one "
                f"site only and has one row"
            )
        facts[name] = SlideFacts(row.line, patient, label, site, _mpp(row.get("mpp", ""), start), row.part(subgroups))
        if patient and label:
            labels.setdefault((site, patient), {}).setdefault(label, name)
    several = {patient: words for (_, patient), words in labels.items() if len(words) > 1}
    notes = []
    if several:
        patient, words = next(iter(several.items()))
        notes.append(
            f"{len(several)} patients of {path} have slides of several labels, the first is {patient} "
            f"({', '.join(f'{word}: {slide}' for word, slide in words.items())}); right if its slides differ, and "
            f"otherwise to be corrected"
        )
    return SlideTable(facts, any("site" in row.cells for row in rows), tuple(notes))


def _mpp(text: str, start: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        value = 0.0
    if not 0 < value < 100:
        raise MedflError(
            f"{start}: mpp is {text}, which is no number of microns per pixel; correct it, or leave it empty"
        )
    return value
