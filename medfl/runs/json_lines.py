"""Files of JSON lines that grow by a line at a time: rounds.jsonl, timings.jsonl, privacy.jsonl.

Only a last line without its end can be one that was being written when a process was killed. Anything else that is no
line of the file is damage, and a sentence: nothing is left out and gone on without.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medfl.data.atomic_file import append_text, replacing
from medfl.errors import MedflError

RESTORE = "restore the file from a copy, or begin a new run in another folder"


def read_json_lines(path: Path, remedy: str = RESTORE) -> list[dict[str, Any]]:
    """The lines of a file, none where there is no file. A last line that is being written, or was cut off, does not
    count yet.

    Args:
        path: the file.
        remedy: what the user can do about a damaged line.

    Raises:
        MedflError: any other line is damaged; the file cannot be read.
    """
    return [value for value, _ in _lines(path, remedy)]


def append_json_line(path: Path, value: Mapping[str, Any]) -> None:
    """Add a line, and have the disk hold it. Raises OSError."""
    append_text(path, json.dumps(value, allow_nan=False) + "\n")


def keep_json_lines(path: Path, count: int | None = None, remedy: str = RESTORE) -> None:
    """Drop what follows the first `count` lines, and a torn last line; what stays is the same bytes. Raises OSError,
    and MedflError as `read_json_lines` does."""
    if not path.is_file():
        return
    whole = b"".join(line + b"\n" for _, line in _lines(path, remedy)[:count])
    if whole != path.read_bytes():
        with replacing(path) as staged:
            staged.write_bytes(whole)


def lines_digest(path: Path, size: int | None = None) -> list[Any]:
    """[bytes, SHA-256] of the first `size` bytes of a file that grows, by default of all its whole lines; those of
    nothing where there is no file. Raises OSError."""
    content = path.read_bytes()[:size] if path.is_file() else b""
    whole = content[: content.rfind(b"\n") + 1]
    return [len(whole), hashlib.sha256(whole).hexdigest()]


def first_bytes(path: Path, count: int) -> int | None:
    """Bytes that the first `count` lines of a file take; None where it has fewer. Raises OSError."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    return sum(len(line) + 1 for line in lines[:count]) if len(lines) >= count else None


def _lines(path: Path, remedy: str) -> list[tuple[dict[str, Any], bytes]]:
    """Every whole line of a file, as a value and as it stands there."""
    if not path.is_file():
        return []
    try:
        *lines, last = path.read_bytes().split(b"\n")
    except OSError as error:
        raise MedflError(f"{path} cannot be read: {error.strerror}") from None
    values = []
    for number, line in enumerate([*lines, *([last] if last else [])], start=1):
        try:
            value = json.loads(line.decode("utf-8"))
            if not isinstance(value, dict):
                raise ValueError(f"{type(value).__name__} and no mapping")
        except (ValueError, RecursionError) as error:
            if number > len(lines):
                break
            raise MedflError(f"{path}, line {number}: not a whole line of JSON ({error}); {remedy}") from None
        values.append((value, line))
    return values
