"""Folders of the cache that appear whole or not at all, and what is left of those whose process was killed.

A folder is made under a hidden name beside its place and holds, as long as it is made, a file that its process has
locked. The lock goes with the process, however that ends, so what is left behind is told from what is being made.
They hold patches, so other users cannot enter them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medfl.data.atomic_file import PRIVATE_FOLDER
from medfl.data.file_lock import lock_file

OWNER = ".owner"
UNOWNED = 3600.0  # seconds without a change after which a folder without a lock counts as left behind


@contextmanager
def making(folder: Path) -> Iterator[Path]:
    """A hidden folder to fill, renamed to `folder` when the block ends and removed after an error.

    Where another process was first with the same folder, that one stays. Raises OSError.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    owner = os.open(part / OWNER, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _lock(owner)
        yield part
        (part / OWNER).unlink()
        try:
            part.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        os.close(owner)
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def resuming(folder: Path, parts: str) -> Iterator[Path]:
    """The same for what takes long: a hidden folder that an earlier process may have left with some of its parts.

    After an error it stays, to go on from, if it holds a part. Who comes while another process is at work on it gets a
    folder as of `making`. Raises OSError.

    Args:
        folder: the place.
        parts: a pattern of the names that whole parts have.
    """
    draft = draft_of(folder)
    draft.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
    owner = os.open(draft / OWNER, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not (_lock(owner) and _is_file(owner, draft / OWNER)):
            with making(folder) as other:
                yield other
            return
        try:
            yield draft
            try:
                draft.rename(folder)
                (folder / OWNER).unlink()  # last, so that nobody takes the draft for left behind before it is in place
            except OSError:
                if not folder.is_dir():
                    raise
        finally:
            if folder.is_dir() or not any(draft.glob(parts)):
                shutil.rmtree(draft, ignore_errors=True)
    finally:
        os.close(owner)


def discard(folder: Path) -> None:
    """Remove a folder at once for whoever looks: it is renamed to a hidden one first. One that cannot be stays."""
    with contextlib.suppress(OSError):
        away = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            folder.rename(away / folder.name)
        finally:
            shutil.rmtree(away, ignore_errors=True)


def draft_of(folder: Path) -> Path:
    """The hidden folder in which `resuming` makes a folder."""
    return folder.with_name(f".{folder.name}-parts")


def left_behind(parent: Path, prefix: str = ".") -> list[Path]:
    """Hidden folders that were being made when their process ended, sorted by name."""
    if not parent.is_dir():
        return []
    return sorted(path for path in parent.glob(f"{prefix}*") if _is_folder(path) and not _is_owned(path))


def folder_size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    total = 0
    for at, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(at, name)).st_size
            except FileNotFoundError:  # it is being renamed
                continue
    return total


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _is_owned(part: Path) -> bool:
    """Whether a living process is making a folder."""
    try:
        owner = os.open(part / OWNER, os.O_RDWR)
    except OSError:  # none, as in version 0.1, or about to be renamed
        times = [time.time()] if not part.exists() else [part.stat().st_mtime]
        for at, _, files in os.walk(part):
            times += [os.lstat(os.path.join(at, name)).st_mtime for name in files]
        return time.time() - max(times) < UNOWNED
    try:
        return not _lock(owner)
    finally:
        os.close(owner)


def _is_file(number: int, path: Path) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(number), os.stat(path))
    except OSError:
        return False


def _lock(number: int) -> bool:
    """Lock an open file; False where another has, and without locks, so that nothing is then taken for left behind."""
    try:
        return lock_file(number) is True
    except OSError:
        return False
