"""How a table of a study is read and written."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from medfl.errors import MedflError

Row = dict[str, str]


def read_table(path: Path) -> list[Row]:
    """The rows of one table; none where there is no such file. Raises MedflError when it is damaged."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    if any("key" not in row or None in row or None in row.values() for row in rows):
        raise MedflError(
            f"{path} is no table of a study, or is cut short; restore it or delete the tables of this study"
        )
    return rows


def write_table(path: Path, rows: Sequence[Row], empty: Sequence[str] = ()) -> None:
    """Write rows, whose columns are all that any of them has; `empty` are those of a table without rows."""
    from medfl.data.atomic_file import write_text  # with it comes PyTorch, which reading tables should not cost

    text = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row)) or list(empty)
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
