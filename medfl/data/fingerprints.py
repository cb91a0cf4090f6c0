"""Files known by their whole content, and a note in the cache so that a second start reads none of them.

A note holds as long as the file system says the same of a file: size, inode, times of modification and of change. The
time of change cannot be set back, so a tool that restores a file's date does not restore its note. A file that was
touched within SETTLE of being read gets no note: a second write within one tick of the clock would not be seen.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path

from medfl.data.atomic_file import PRIVATE_FOLDER, open_private, write_text

SETTLE = 2_000_000_000  # nanoseconds
BLOCK = 1 << 20  # bytes read at a time
SPARE = 10_000  # outdated lines a file of notes may have before it is written anew
Identity = tuple[int, int, int, int]
Digest = Callable[[FileIO], str]


class Fingerprints:
    """Fingerprints of the files of one folder.

    Args:
        folder: what references are relative to.
        cache: where notes are kept, in a file named by a digest of `folder`; without one that can be written every
            file is read again.
        digest: what makes a digest of an open file's bytes; the whole of them where none is given.
    """

    def __init__(self, folder: str, cache: Path, digest: Digest | None = None) -> None:
        self.folder = folder
        self.digest = digest or whole_content
        self.file = cache / f"{hashlib.sha256(folder.encode(errors='surrogateescape')).hexdigest()[:16]}.notes"
        self._notes: dict[str, tuple[Identity, str]] | None = None

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_notes": None}  # the process that unpickles it reads them itself

    def of(self, references: Sequence[str]) -> list[str]:
        """A digest (128 bits, hexadecimal) of each file's bytes. Raises OSError for what cannot be read."""
        if self._notes is None:
            self._notes = self._load()
        notes, fresh = self._notes, dict[str, tuple[Identity, str]]()
        start = os.path.join(self.folder, "")
        paths = [start + reference for reference in references]
        prints, unread = [""] * len(paths), list[int]()
        for index, (reference, path) in enumerate(zip(references, paths, strict=True)):
            note = notes.get(reference)
            if note is not None and note[0] == _identity(os.stat(path)):
                prints[index] = note[1]
            else:
                unread.append(index)
        with ThreadPoolExecutor(4) as pool:
            results = pool.map(lambda path: _read(path, self.digest), [paths[index] for index in unread])
            for index, (text, settled) in zip(unread, results, strict=True):
                prints[index] = text
                if settled:
                    fresh[references[index]] = settled, text
        notes.update(fresh)
        self._append(fresh)
        return prints

    def _load(self) -> dict[str, tuple[Identity, str]]:
        """The notes as they are on the disk; a damaged line is left out."""
        try:
            lines = self.file.read_text(encoding="ascii", errors="replace").splitlines()
        except OSError:
            return {}
        bodies = [body for line in lines if line[:8] == _check(body := line[9:])]
        notes = {
            reference: ((size, inode, modified, changed), text)
            for reference, size, inode, modified, changed, text in json.loads(f"[{','.join(bodies)}]")
        }
        if len(lines) > 2 * len(notes) + SPARE:
            with contextlib.suppress(OSError):
                write_text(self.file, "".join(_line(*note) for note in notes.items()), private=True)
        return notes

    def _append(self, notes: dict[str, tuple[Identity, str]]) -> None:
        if notes:
            with contextlib.suppress(OSError):
                self.file.parent.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
                with open(self.file, "a", encoding="ascii", opener=open_private) as stream:
                    stream.write("".join(_line(*note) for note in notes.items()))


def _read(path: str, digest: Digest) -> tuple[str, Identity | None]:
    """A file's fingerprint, and what it is known by where that may be noted."""
    began = time.time_ns()
    if not stat.S_ISREG(os.stat(path).st_mode):  # a named pipe would be waited for
        raise OSError(errno.EINVAL, "not a regular file", path)
    with open(path, "rb", buffering=0) as file:
        before = os.fstat(file.fileno())
        text = digest(file)
        after = os.fstat(file.fileno())
    settled = before.st_size == after.st_size and began - max(after.st_mtime_ns, after.st_ctime_ns) > SETTLE
    return text, _identity(after) if settled else None


def whole_content(file: FileIO) -> str:
    """A digest (128 bits, hexadecimal) of all bytes of an open file."""
    digest = hashlib.sha256()
    while block := file.read(BLOCK):
        digest.update(block)
    return digest.hexdigest()[:32]


def _identity(status: os.stat_result) -> Identity:
    return status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def _line(reference: str, note: tuple[Identity, str]) -> str:
    body = json.dumps([reference, *note[0], note[1]])
    return f"{_check(body)} {body}\n"


def _check(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"
