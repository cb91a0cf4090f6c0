"""Cells of CSV files that spreadsheets open. Imports nothing of medfl: an exported model carries this file along.

A spreadsheet takes a text that begins with one of `=+-@` for a formula and carries it out. The usual remedy is a `'` in
front, which a spreadsheet does not show. Numbers stay as they are.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from typing import TextIO

FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")


class NeutralWriter:
    """A writer of CSV rows whose cells no spreadsheet takes for formulas."""

    def __init__(self, file: TextIO, lineterminator: str = "\r\n") -> None:
        self._writer = csv.writer(file, lineterminator=lineterminator)

    def writerow(self, cells: Iterable[object]) -> None:
        """Write one row."""
        self._writer.writerow([neutral(cell) for cell in cells])

    def writerows(self, rows: Iterable[Iterable[object]]) -> None:
        """Write rows one after the other."""
        for row in rows:
            self.writerow(row)


def neutral(cell: object) -> object:
    """The cell as no spreadsheet takes for a formula; only a text can change."""
    if not isinstance(cell, str) or not cell.lstrip("'").startswith(FORMULA_STARTS) or _is_number(cell):
        return cell
    return f"'{cell}"


def natural(cell: str) -> str:
    """The text that `neutral` was given."""
    return cell[1:] if cell.startswith("'") and cell.lstrip("'").startswith(FORMULA_STARTS) else cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return not text[:1].isspace()
