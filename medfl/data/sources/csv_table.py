"""CSV files written by other people: spreadsheets, byte order marks, semicolons."""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medfl.errors import MedflError, nearest

MAX_BYTES = 256_000_000
MAX_LINES = 2_000_000


@dataclass(frozen=True)
class Row:
    """One line of a CSV, stripped of blanks; `line` counts from 1 with the header."""

    line: int
    cells: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells[column]

    def get(self, column: str, default: str) -> str:
        """The cell, or `default` where the file has no such column."""
        return self.cells.get(column, default)


class _TooLarge(Exception):
    """A table above a limit, which the message names."""


def read_rows(
    path: Path, where: str, alternatives: Sequence[tuple[str, ...]], optional: tuple[str, ...] = ()
) -> list[Row]:
    """Read a CSV that has all columns of one of `alternatives`; other columns are dropped, column case is ignored.

    Commas or semicolons separate (spreadsheets write either). Empty lines are skipped.

    Raises:
        MedflError: the file cannot be read or is no CSV or too large, lacks columns, or has an empty
            cell in a required column.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise _TooLarge(f"{MAX_BYTES // 1_000_000} MB")
            header = file.readline()
            separator = ";" if ";" in header and "," not in header else ","
            file.seek(0)
            reader = csv.reader(file, delimiter=separator)
            lines = [(reader.line_num, cells) for cells in itertools.islice(reader, MAX_LINES + 1)]
        if len(lines) > MAX_LINES:
            raise _TooLarge(f"{MAX_LINES:,} lines")
    except _TooLarge as error:
        raise MedflError(
            f"{where}: {path} has more than {error}, the most a table may have; divide the data among sites"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MedflError(f"{where}: {path} cannot be read as CSV ({reason}); save it as UTF-8 text") from None
    columns = [name.strip().lower() for name in lines[0][1]] if lines else []
    required = next((names for names in alternatives if set(names) <= set(columns)), None)
    if required is None:
        lacking = [name for name in alternatives[0] if name not in columns]
        raise MedflError(
            f"{where}: {path} has no column {' and no column '.join(lacking)}; its first line must name "
            f"{' or '.join(','.join(names) for names in alternatives)}.{nearest(lacking[0], columns)}"
        )
    column_of = {name: columns.index(name) for name in (*required, *optional) if name in columns}
    rows = []
    for line, cells in lines[1:]:
        if not any(cell.strip() for cell in cells):
            continue
        values = {name: cells[at].strip() if at < len(cells) else "" for name, at in column_of.items()}
        empty = next((name for name in required if not values[name]), None)
        if empty:
            raise MedflError(f"{where}: {path}, line {line}: the cell under {empty} is empty; fill it")
        rows.append(Row(line, values))
    return rows
