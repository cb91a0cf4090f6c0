"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; what is there when the block ends is on the disk and takes the place of `path`.
    After an error `path` is what it was. Raises OSError."""
    staged = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # another process may be writing the same file
    try:
        yield staged
        flush(staged)
        os.replace(staged, path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a file whole."""
    with replacing(path) as staged:
        staged.write_text(text, encoding="utf-8")


def flush(path: Path) -> None:
    """Have the disk hold what was written to a file, or the names in a folder."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
