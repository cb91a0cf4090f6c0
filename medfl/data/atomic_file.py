"""Files that appear whole or not at all, and files that grow; neither is ever written through a link.

What names files or patients, or holds patches, keys or what a site keeps, is private: its files and folders are made
with the modes `PRIVATE_FILE` and `PRIVATE_FOLDER`, whatever the user's umask.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700


@contextmanager
def replacing(path: Path, private: bool = False) -> Iterator[Path]:
    """A name to write to, in a new folder beside `path` that only this user can enter; what is there when the block
    ends is on the disk and takes the place of `path`, which may be a link: the link goes, what it names stays.
    After an error `path` is what it was. A `private` file is this user's alone. Raises OSError."""
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent))
    try:
        staged = folder / path.name
        yield staged
        flush(staged)
        if private:
            staged.chmod(PRIVATE_FILE)
        os.replace(staged, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_text(path: Path, text: str, private: bool = False) -> None:
    """Write a file whole; a `private` one is this user's alone."""
    with replacing(path, private) as staged:
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


def open_private(path: str, flags: int) -> int:
    """The same for a file that is this user's alone, from now on if it was not. Raises OSError."""
    number = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), PRIVATE_FILE)
    os.fchmod(number, PRIVATE_FILE)
    return number


def others_can_read(path: Path) -> bool:
    """Whether other users of this machine, or the user's group, can come to a file or a folder and read it."""
    places = [path.absolute(), *path.absolute().parents]
    try:
        modes = [place.stat().st_mode for place in places]
    except OSError:
        return False
    return any(modes[0] & 0o4 << shift and all(mode & 0o1 << shift for mode in modes[1:]) for shift in (0, 3))


def flush(path: Path) -> None:
    """Have the disk hold what was written to a file, or the names in a folder."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
