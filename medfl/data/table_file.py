"""A CSV file that appears whole or not at all."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from medfl.data.atomic_file import replacing

if TYPE_CHECKING:
    from _csv import Writer


@contextlib.contextmanager
def open_table(path: Path, columns: Iterable[str]) -> Iterator[Writer]:
    """A writer of rows below these columns; the file has its name once the last row is written. Raises OSError."""
    with replacing(path) as staged, staged.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        yield writer
