"""The pieces that sections are made of: tables, tiles, notes, legends, grids of figures. All return escaped HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from medfl.metrics.formatting import format_count
from medfl.plain_text import visible
from medfl.report.html_page import templates

Cell = str | Markup


@dataclass(frozen=True)
class Picture:
    """A chart with its caption.

    Attributes:
        title: what it is about (a site, a class).
        note: what it says, in numbers.
        picture: inline SVG, or a table.
    """

    title: str
    picture: Markup
    note: str = ""


@dataclass(frozen=True)
class Tile:
    """A key figure: `label`, `value`, and quieter `beside` (its interval) and `note`."""

    label: str
    value: str
    beside: str = ""
    note: str = ""


@dataclass(frozen=True)
class Tint:
    """A cell of a heat map: its text, and how deep its colour is, from 0 to 1 (None: no figure)."""

    text: str
    depth: float | None


@dataclass(frozen=True)
class PatchPicture:
    """A picture from a site, as a `data:` address; `name` is its file, on the site's own page."""

    source: str
    label: str
    note: str = ""
    name: str = ""


def join(*blocks: Markup) -> Markup:
    """One block after another."""
    return Markup("\n").join(blocks)


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    caption: str = "",
    text: int = 1,
    break_before: Sequence[int] = (),
    stack: bool = True,
) -> Markup:
    """A table whose first column names the row.

    Args:
        text: how many columns from the left hold words; the others hold numbers.
        break_before: rows above which a rule stands.
        stack: on a narrow screen every row becomes a card; else the table scrolls in its box.
    """
    return _block("table", columns, rows, caption, text, break_before, stack)


def heat_map(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Tint]]], *, caption: str = "") -> Markup:
    """A table whose cells are coloured."""
    return _block("heat_map", columns, rows, caption)


def matrix(labels: Sequence[str], counts: Sequence[Sequence[int | None]], summary: str) -> Markup:
    """Counts by truth (row) and prediction (column); a cell is as deep as its share of the row (None: withheld).

    `summary` stands in for the table where it is not seen.
    """
    rows = []
    for label, row in zip(labels, counts, strict=True):
        total, withheld = sum(count or 0 for count in row), None in row
        cells = [
            Tint(format_count(count) if total or withheld else "–", (count or 0) / total if total else 0.0)
            for count in row
        ]
        rows.append((visible(label), cells))
    return _block("matrix", [visible(label) for label in labels], rows, visible(summary))


def figures(pictures: Sequence[Picture], small: bool = False) -> Markup:
    """Charts side by side, as many as fit; `small` for charts half as wide."""
    return _block("figures", pictures, small)


def wide(picture: Picture) -> Markup:
    """A chart across the page."""
    return _block("wide", picture)


def tiles(key_figures: Sequence[Tile]) -> Markup:
    """Key figures side by side."""
    return _block("tiles", key_figures)


def notes(title: str, entries: Sequence[tuple[str, str]]) -> Markup:
    """A box of (short name, sentence)."""
    return _block("notes", title, entries)


def legend(entries: Sequence[tuple[str, str, str]]) -> Markup:
    """What charts below use: (kind: "box", "line", "dash", "band" or "mark"; colour token; text)."""
    return _block("legend", entries)


def text(*sentences: str) -> Markup:
    """Paragraphs."""
    return join(*(_block("paragraph", sentence) for sentence in sentences))


def finding(sentence: str) -> Markup:
    """The one sentence to take away."""
    return _block("finding", sentence)


def heading(words: str) -> Markup:
    """A heading inside a section."""
    return _block("heading", words)


def folded(title: str, body: Markup) -> Markup:
    """Folded on a screen, open on paper."""
    return _block("folded", title, body)


def listing(words: str) -> Markup:
    """Text as it is, in a fixed-width font."""
    return _block("listing", words)


def links(entries: Sequence[tuple[str, str]]) -> Markup:
    """A list of citations: (text, address or "")."""
    return _block("links", entries)


def unanswered(words: str) -> Markup:
    """Words that stand where an answer should, in red."""
    return _block("unanswered", words)


def answer_list(answers: Sequence[tuple[str, Cell]]) -> Markup:
    """A cell of (where an answer is from, the answer)."""
    return _block("answers", answers)


def patches(pictures: Sequence[PatchPicture]) -> Markup:
    """Pictures from a site."""
    return _block("patches", pictures)


def slides(pictures: Sequence[PatchPicture]) -> Markup:
    """Whole slides of a site, each in small."""
    return _block("patches", pictures, "slides")


def _block(macro: str, *arguments: Any) -> Markup:
    module = templates().get_template("blocks.html").module
    return Markup(str(getattr(module, macro)(*arguments)).strip())
