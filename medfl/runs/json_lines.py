"""Files of JSON lines that grow by a line at a time: rounds.jsonl, timings.jsonl, privacy.jsonl."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medfl.data.atomic_file import write_text
from medfl.errors import MedflError


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, none where there is no file. A last line that is being written, or was cut off, does not
    count yet.

    Raises:
        MedflError: any other line is damaged.
    """
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    values = []
    for number, line in enumerate(lines, start=1):
        try:
            values.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise MedflError(f"{path}, line {number}: not valid JSON: {error}") from None
    return values


def append_json_line(path: Path, value: Mapping[str, Any]) -> None:
    """Add a line, and have the disk hold it. Raises OSError."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(value, allow_nan=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def write_json_lines(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of lines whole. Raises OSError."""
    write_text(path, "".join(json.dumps(value) + "\n" for value in values))
