"""Cells of CSV files that spreadsheets open. Imports nothing of medfl: an exported model carries this file along.

A spreadsheet takes a text that begins with one of `=+-@` for a formula and carries it out. The usual remedy is a `'` in
front, which a spreadsheet does not show. Numbers stay as they are.
"""

from __future__ import annotations

from typing import TypeVar

FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")
T = TypeVar("T")


def neutral(cell: T) -> T | str:
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
