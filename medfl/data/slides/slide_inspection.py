"""Look into a folder of slides and propose a site file for it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from medfl.data.images import files_below
from medfl.data.left_out import first_few
from medfl.data.rgb import Unreadable
from medfl.data.slides.annotation_file import read_annotations
from medfl.data.slides.slide_folder import list_slides
from medfl.data.slides.slide_reader import SUFFIXES, Slide
from medfl.data.slides.slide_table import SLIDES_CSV, SlideFacts, SlideTable, read_slide_table

ALSO_PATCHES = (".tif", ".tiff", ".dcm")


def holds_slides(root: Path) -> bool:
    """Whether a folder is one of slides: it has their table, or files that are nothing else. Raises OSError."""
    if (root / SLIDES_CSV).is_file():
        return True
    endings = tuple(suffix for suffix in SUFFIXES if suffix not in ALSO_PATCHES)
    return any(entry.name.lower().endswith(endings) for entry in files_below(root))


def inspect_slides(root: Path, name: str) -> tuple[dict[str, Any], list[str]]:
    """A site mapping and notes on what is there and what is missing.

    Raises:
        MedflError: what `list_slides` and `read_slide_table` refuse. OSError: a folder that cannot be read.
    """
    slides = list_slides(root, f"site {name}")
    path = root / SLIDES_CSV
    table = read_slide_table(path, slides, f"site {name}") if path.is_file() else SlideTable({}, False)
    words: Counter[str] = Counter()
    resolutions: Counter[str] = Counter()
    problems = []
    for slide in slides:
        facts = _facts(table, slide.name)
        if facts.label and not slide.annotation:
            words[facts.label] += 1
        try:
            if slide.annotation:
                words.update(region.word for region in read_annotations(slide.annotation).regions)
            mpp = Slide(root / slide.files[0], facts.mpp, facts.mpp is not None).mpp
            resolutions[f"{mpp:.3g}" if mpp else "unknown"] += 1
        except Unreadable as error:
            problems.append(f"{slide.name} ({error})")
    counts = ", ".join(f"{word} {count:,}" for word, count in sorted(words.items()))
    notes = [f"Found {len(slides):,} slides{f', with regions or labels of {counts}' if counts else ''}."]
    notes.append(f"Microns per pixel: {', '.join(f'{mpp} ({count:,})' for mpp, count in resolutions.most_common(5))}.")
    if problems:
        notes.append(f"Cannot be read: {first_few(problems)}.")
    bare = [slide.name for slide in slides if not slide.annotation and not _facts(table, slide.name).label]
    if bare:
        notes.append(f"Without an annotation or a label: {first_few(bare)}.")
    patients = {_facts(table, slide.name).patient for slide in slides}
    if "" in patients:
        notes.append(f"Not every slide has a patient, without whom it is refused: write {path} (slide,patient,label).")
    else:
        notes.append(f"Source groups: {len(patients)} patients, from {path}.")
    site = {
        "name": name,
        "description": f"{len(slides)} slides from {root.name}",
        "labels": {word: word for word in sorted(words)},
        "data": {"source": "slides", "root": str(root)},
    }
    return site, [*notes, *table.notes]


def _facts(table: SlideTable, name: str) -> SlideFacts:
    return table.facts.get(name, SlideFacts(0))
