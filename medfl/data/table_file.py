"""A CSV file that appears whole or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from medfl.data.atomic_file import replacing
from medfl.data.table_cells import NeutralWriter


@contextlib.contextmanager
def open_table(path: Path, columns: Iterable[str], private: bool = False) -> Iterator[NeutralWriter]:
    """A writer of rows below these columns; the file has its name once the last row is written.

    No spreadsheet takes a cell for a formula; a `private` file is this user's alone. Raises OSError.
    """
    with replacing(path, private) as staged, staged.open("w", newline="", encoding="utf-8") as file:
        writer = NeutralWriter(file)
        writer.writerow(columns)
        yield writer
