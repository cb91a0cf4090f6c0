"""A CSV file that appears whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _csv import Writer


@contextlib.contextmanager
def open_table(path: Path, columns: Iterable[str]) -> Iterator[Writer]:
    """A writer of rows below these columns; the file has its name once the last row is written. Raises OSError."""
    part = path.with_name(path.name + ".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        yield writer
    os.replace(part, path)
