"""Files that appear whole or not at all, and files that grow; neither is ever written through a link."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to, in a new folder beside `path` that only this user can enter; what is there when the block
    ends is on the disk and takes the place of `path`, which may be a link: the link goes, what it names stays.
    After an error `path` is what it was. Raises OSError."""
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent))
    try:
        staged = folder / path.name
        yield staged
        flush(staged)
        os.replace(staged, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a file whole."""
    with replacing(path) as staged:
        staged.write_text(text, encoding="utf-8")


def append_text(path: Path, text: str) -> None:
    """Add to the end of a file, which no link may stand for, and have the disk hold it. Raises OSError."""
    with open(path, "a", encoding="utf-8", opener=open_itself) as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def open_itself(path: str, flags: int) -> int:
    """An opener for `open` that follows no link in the last place of a path. Raises OSError."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def flush(path: Path) -> None:
    """Have the disk hold what was written to a file, or the names in a folder."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
