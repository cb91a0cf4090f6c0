"""CSV files written by other people: spreadsheets, byte order marks, semicolons, tabs.

What cannot be read in one way only is refused with its line: a reader that makes the best of a stray quotation mark
swallows rows.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medfl.config.regular_file import open_regular
from medfl.config.spelling import is_blank, letters, plain, show
from medfl.data.table_cells import natural
from medfl.errors import MedflError, nearest

MAX_BYTES = 256_000_000
MAX_LINES = 2_000_000
SEPARATORS = ",;\t|"
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # a spreadsheet's first line
UNDECODABLE = re.compile("[\udc80-\udcff]")


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

    def part(self, columns: Sequence[str]) -> dict[str, str]:
        """The cells of those of the columns that the file has."""
        return {name: self.cells[name] for name in columns if name in self.cells}


class OtherTable(MedflError):
    """A file that cannot be read as a table with the columns asked for."""


class _TooLarge(Exception):
    """A table above a limit, which the message names."""


class _Damaged(Exception):
    """A line that can be read in several ways or in none, and why."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


@dataclass(frozen=True)
class _Header:
    """The first line of a table.

    Attributes:
        line: its number.
        columns: what stands in it.
        names: for each column, which of those asked for it is, or an empty text.
        separator: what parts the cells.
        required: the first of the alternatives whose columns are all there.
    """

    line: int
    columns: tuple[str, ...]
    names: tuple[str, ...]
    separator: str
    required: tuple[str, ...] | None

    @property
    def place(self) -> dict[str, int]:
        """Where each of the columns asked for stands."""
        return {name: self.names.index(name) for name in self.names if name}


def read_rows(
    path: Path, where: str, alternatives: Sequence[tuple[str, ...]], optional: tuple[str, ...] = ()
) -> list[Row]:
    """Read a CSV that has all columns of one of `alternatives`; other columns are dropped.

    Case, blanks, hyphens and underscores in a column's name are ignored. Commas, semicolons, tabs or bars separate
    (spreadsheets write any). Empty lines are skipped.

    Raises:
        OtherTable: the file is no text, or lacks columns.
        MedflError: the file cannot be opened or is too large, a line is damaged or has more or fewer cells than the
            header, a column stands twice, or a cell in a required column is empty.
    """
    header = None
    try:
        with open_regular(path) as stream:
            if os.fstat(stream.fileno()).st_size > MAX_BYTES:
                raise _TooLarge(f"{MAX_BYTES // 1_000_000} MB")
            lines = _lines(io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline=""))
            header = _header(lines, alternatives, optional)
            if header.required is None:
                raise OtherTable(_without_columns(f"{where}: {path}", header, alternatives))
            _check_doubles(header)
            return _rows(lines, header)
    except _TooLarge as error:
        raise MedflError(
            f"{where}: {path} has more than {error}, the most a table may have; divide the data among sites"
        ) from None
    except _Damaged as error:
        kind = MedflError if header else OtherTable
        raise kind(f"{where}: {path}, line {error.line}: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OtherTable(f"{where}: {path} cannot be read as CSV ({reason}); save it as UTF-8 text") from None


def _lines(file: io.TextIOWrapper) -> Iterator[tuple[int, str]]:
    """The lines of a text with their numbers."""
    for number, line in enumerate(file, 1):
        if number > MAX_LINES:
            raise _TooLarge(f"{MAX_LINES:,} lines")
        if "\0" in line:
            raise _Damaged(number, "it cannot be read as CSV (it holds a NUL byte); save the table as UTF-8 text")
        if not line.isascii() and UNDECODABLE.search(line):
            raise _Damaged(number, "it cannot be read as CSV (it is not UTF-8); save the table as UTF-8 text")
        yield number, line


def _header(
    lines: Iterator[tuple[int, str]], alternatives: Sequence[tuple[str, ...]], optional: tuple[str, ...]
) -> _Header:
    """The first line that is not empty, divided by the separator that yields the columns asked for, if one does."""
    number, line = next(((number, line) for number, line in lines if line.strip()), (1, ""))
    separators = SEPARATORS
    if sign := SEPARATOR_LINE.fullmatch(line):
        separators = sign[1] + separators
        number, line = next(lines, (number, ""))
    names = {letters(name): name for columns in (*alternatives, optional) for name in columns}
    headers = []
    for separator in dict.fromkeys(separators):
        try:
            columns = next(csv.reader([line], delimiter=separator, strict=True), [])
        except (csv.Error, TypeError, ValueError):  # quotation marks that another separator explains
            continue
        meanings = tuple(names.get(letters(column), "") for column in columns)
        required = next((columns for columns in alternatives if set(columns) <= set(meanings)), None)
        headers.append(_Header(number, tuple(columns), meanings, separator, required))
        if required is not None:
            return headers[-1]
    if len(headers) < len(set(separators)) and all(len(header.columns) < 2 for header in headers):
        raise _Damaged(number, "a quotation mark opens a cell and does not close it; remove it")
    return max(headers, key=lambda header: (len(header.place), len(header.columns)))


def _without_columns(table: str, header: _Header, alternatives: Sequence[tuple[str, ...]]) -> str:
    lacking = [name for name in alternatives[0] if name not in header.place]
    columns = [show(column.strip().lower()) for column in header.columns]
    return (
        f"{table} has no column {' and no column '.join(lacking)}; its first line must name "
        f"{' or '.join(','.join(names) for names in alternatives)}.{nearest(lacking[0], columns)}"
    )


def _check_doubles(header: _Header) -> None:
    folded = [name or "".join(plain(column).split()) for name, column in zip(header.names, header.columns, strict=True)]
    for name, count in Counter(folded).items():
        if name and count > 1:
            twins = [f'"{show(header.columns[at])}"' for at, other in enumerate(folded) if other == name]
            raise _Damaged(
                header.line, f"the column {name} stands {count} times ({', '.join(twins)}); keep one of them"
            )


def _rows(lines: Iterator[tuple[int, str]], header: _Header) -> list[Row]:
    rows, breaks, width, place = [], [], len(header.columns), header.place
    for line, cells in _records(lines, header):
        text = "".join(cells)
        if is_blank(text):
            continue
        if len(cells) < width or not is_blank("".join(cells[width:])):
            raise _Damaged(
                line,
                f"it has {len(cells)} cells and the header has {width}; correct the line, or put cells that hold the "
                f"separator into quotation marks",
            )
        if "\n" in text or "\r" in text:
            breaks += [(line, at, cell) for at, cell in enumerate(cells) if "\n" in cell or "\r" in cell]
        values = {name: "" if is_blank(cells[at]) else natural(cells[at].strip()) for name, at in place.items()}
        empty = next((name for name in header.required or () if not values[name]), None)
        if empty:
            raise _Damaged(line, f"the cell under {empty} is empty; fill it")
        rows.append(Row(line, values))
    _check_breaks(breaks, header)
    return rows


def _records(lines: Iterator[tuple[int, str]], header: _Header) -> Iterator[tuple[int, list[str]]]:
    """The line on which each record starts, and its cells."""
    reader = csv.reader((text for _, text in lines), delimiter=header.separator, strict=True)
    while True:
        start = header.line + reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error:  # the end of the file, text behind a closing mark, or a cell without end
            raise _Damaged(
                start,
                "a quotation mark opens a cell and does not close it at the cell's end; remove it, or write it "
                "twice inside a cell in quotation marks",
            ) from None
        yield start, cells


def _check_breaks(breaks: Sequence[tuple[int, int, str]], header: _Header) -> None:
    """Refuse a line break that is alone in its column, or behind which a cell looks like the next row.

    A stray quotation mark, and another one further down, make one cell of all that lies between.
    """
    rows_with = Counter(at for _, at, _ in breaks)
    for line, at, cell in breaks:
        like_a_row = any(text.count(header.separator) >= max(at, 1) for text in cell.splitlines()[1:])
        if rows_with[at] == 1 or like_a_row or at in (header.place[name] for name in header.required or ()):
            raise _Damaged(
                line,
                f'the cell under "{show(header.columns[at])}" goes on in the next line; remove the line break, or the '
                f"stray quotation mark that swallows it",
            )
