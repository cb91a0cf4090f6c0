"""Rendered patches on the disk, found again by what they were rendered from.

A store lies under `<cache>/stores/<key>/`: images.npy, and store.json with the shape, what was left out, and checksums
of both files. A large one, or one of JPEGs, lies in pieces (`store_pieces`) that have a record each. The key is a
sha256 of the patches' names and fingerprints, of everything that shapes the pixels, and of STORE_VERSION; so copied
data find their store again, and changed data or settings do not.

Checksums are looked at whenever a process opens a store first, which takes about a second a gigabyte and core; in a
store of pieces larger than AT_ONCE, block by block as patches are first read. Patches are written through a file and
not a memory map, so that a disk that fills is an error and not the end of the process.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medfl.data.block_checks import BlockChecks
from medfl.data.scratch_folder import discard, making
from medfl.data.store_record import STORE_VERSION as STORE_VERSION
from medfl.data.store_record import Damaged as Damaged
from medfl.data.store_record import block_sums, check_blocks, piece_name, read_note, read_text, record_text
from medfl.data.stored_patches import I64, JpegPatches, PatchFiles
from medfl.errors import MedflError

if TYPE_CHECKING:
    from medfl.data.partition import SitePartition

ARRAY = "images.npy"
AT_ONCE = 1 << 30
"""Bytes of pieces whose checksums are all looked at when the store is opened."""
Mark = tuple[str, int, int, int, int]
"""What a file is known by in this process: path, inode, size and times."""


@dataclass(frozen=True)
class ArrayKind:
    """How the rows of a store lie on the disk: NumPy's type of a number, the shape of a row, and facts of plain values
    that its record holds besides."""

    dtype: str
    row: tuple[int, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return int(np.dtype(self.dtype).itemsize * np.prod(self.row))


Problems = dict[int, str]
"""Patches that cannot be read: position among the site's patches, and why."""
log = logging.getLogger(__name__)
_sound: set[Mark] = set()
"""Files of stores that this process has checked."""
_checks: dict[Mark, BlockChecks] = {}
"""Of those that it checks as they are read."""


def store_key(share: SitePartition, settings: Mapping[str, Any]) -> str:
    """The name of the store of a site's patches, rendered by settings of plain values.

    Raises:
        MedflError: a patch is gone.
    """
    try:
        prints = share.catalog.source.fingerprints(share.references)
    except OSError as error:
        raise MedflError(f"site {share.site}: {error.filename} cannot be read: {error.strerror}") from None
    text = json.dumps({"version": STORE_VERSION, "look": settings, "names": share.names, "files": prints})
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def open_store(folder: Path, site: str) -> tuple[Any, Problems] | None:
    """The rows, memory-mapped or read like that (`Patches` of patches), and what was left out; None without a sound
    store.

    A damaged store is removed and a warning says so. Raises MedflError where another user made it for himself alone.
    """
    while True:
        there = _mark_of(folder)
        try:
            return read_store(folder)
        except FileNotFoundError:
            return None
        except PermissionError:
            raise MedflError(
                f"site {site}: the store {folder} is another user's, who alone can read it; name a cache of your own "
                f"under `data.cache` or in the environment variable MEDFL_CACHE, or have him open it with "
                f"`chmod -R go+rX`"
            ) from None
        except Damaged as damage:
            if _mark_of(folder) == there:
                log.warning("site %s: the store %s is damaged (%s); it is made anew", site, folder, damage)
                discard(folder)
                return None
            # another process has put it there, or made it anew, while it was read


def _mark_of(folder: Path) -> Mark | None:
    """What a folder is known by; a number of an inode is given to the next one at once."""
    try:
        return _mark(folder)
    except OSError:
        return None


def read_store(folder: Path, recheck: bool = False) -> tuple[Any, Problems]:
    """Rows and what was left out. `recheck` also reads a store again that this process has checked.

    Raises:
        FileNotFoundError: there is no store. Damaged: there is one that is not what was written.
    """
    record = _read_record(folder)
    problems = {int(position): str(reason) for position, reason in record["bad"].items()}
    if "pieces" not in record:
        return _map_array(folder / ARRAY, record["blocks"], recheck), problems
    notes = [read_note(folder / f"{piece_name(number)}.json") for number in range(record["pieces"])]
    parts = [(number, note) for number, note in enumerate(notes) if note.rows]
    if not parts:
        raise Damaged("no patch in it")
    places = [folder / note.file(number) for number, note in parts]
    at_once = recheck or sum(file.stat().st_size for file in places if file.exists()) <= AT_ONCE
    files, checks = [], list[BlockChecks]()
    for file, (_, note) in zip(places, parts, strict=True):
        if not at_once:
            checks.append(_checks_of(file, note.blocks))
        files.append(_map_array(file, note.blocks if at_once else None, recheck))
    if any(note.sizes is not None for note in notes):
        return JpegPatches(files, [note.sizes or [] for _, note in parts], record["shape"][1], checks), problems
    return PatchFiles(files, checks), problems


def _checks_of(file: Path, blocks: list[int]) -> BlockChecks:
    """What this process has looked at of a file. Raises Damaged."""
    try:
        mark = _mark(file)
        if mark not in _checks:
            _checks[mark] = BlockChecks(file, blocks)
        return _checks[mark]
    except (OSError, ValueError) as error:
        raise Damaged(f"{file.name}: {error}") from None


def _mark(file: Path) -> Mark:
    status = os.stat(file)
    return str(file), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _map_array(file: Path, blocks: list[int] | None, recheck: bool) -> NDArray[Any]:
    """A file of a store, memory-mapped. Raises Damaged unless it has these checksums of blocks, if any are given."""
    try:
        mark = _mark(file)
        if blocks is not None and (recheck or mark not in _sound):
            check_blocks(file, mark[2], blocks)
            _sound.add(mark)
        if file.suffix == ".npy":
            array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
            return array
        return np.memmap(file, dtype=np.uint8, mode="r")
    except (OSError, EOFError, ValueError) as error:
        raise Damaged(f"{file.name}: {error}") from None


def write_rows_of(
    kind: ArrayKind, folder: Path, site: str, chunks: Iterator[NDArray[Any]], room: int, problems: Problems
) -> tuple[Any, Problems]:
    """Make a store of one file beside its place, then rename it: it is whole or absent, whoever else writes it.

    Args:
        kind: of its rows.
        folder: the store's place.
        site: name of the site, for messages.
        chunks: the rows in their order, some of them at a time.
        room: how many there may be.
        problems: what is left out; filled while `chunks` is read.

    Raises:
        MedflError: the folder cannot be written, there is no room, or what `chunks` raises.
    """
    with writing(folder, site, room * kind.row_bytes), making(folder) as draft:
        rows = write_array(draft / ARRAY, kind, chunks)
        blocks = block_sums(draft / ARRAY)
        write_record(draft, [rows, *kind.row], problems, {"blocks": blocks}, kind.facts)
    return reopened(folder, site)


@contextmanager
def writing(folder: Path, site: str, need: int) -> Iterator[None]:
    """A block that writes so many bytes into the cache. Raises MedflError where there is no room, or no right to."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _check_room(folder.parent, need, site)
        yield
    except OSError as error:
        raise MedflError(
            f"site {site}: the cache {folder.parent} cannot be written ({error.strerror or error}); make room, or name "
            f"another folder under `data.cache` or in the environment variable MEDFL_CACHE"
        ) from None


def reopened(folder: Path, site: str) -> tuple[Any, Problems]:
    """A store that was just written."""
    store = open_store(folder, site)
    if store is None:
        raise MedflError(f"the store {folder} was lost while it was read; run again")
    return store


def store_digest(key: str, labels: I64, groups: I64, splits: dict[str, I64]) -> str:
    """Short sha256 of a store, its labels, groups and splits; the same wherever the data lie."""
    digest = hashlib.sha256(key.encode())
    for name in sorted(splits):
        digest.update(name.encode() + splits[name].astype("<i8").tobytes())
    digest.update(labels.astype("<i8").tobytes() + groups.astype("<i8").tobytes())
    return digest.hexdigest()[:16]


def _check_room(parent: Path, need: int, site: str) -> None:
    free = shutil.disk_usage(parent).free
    if free < need * 1.05:
        raise MedflError(
            f"site {site}: its patches need {need / 1e9:.1f} GB and {parent} has {free / 1e9:.1f} GB free; make "
            f"room (`medfl cache ls` says what the cache holds), or name another folder under `data.cache`"
        )


def store_facts(folder: Path) -> dict[str, Any]:
    """What the record of a sound store holds besides (`ArrayKind.facts`). Raises Damaged."""
    facts: dict[str, Any] = _read_record(folder).get("facts", {})
    return facts


def write_array(file: Path, kind: ArrayKind, chunks: Iterator[NDArray[Any]]) -> int:
    """Write rows as one array; how many they were."""
    rows = 0
    with file.open("wb") as stream:
        _write_header(stream, kind.dtype, (0, *kind.row))
        begin = stream.tell()
        for chunk in chunks:
            stream.write(np.ascontiguousarray(chunk).data)
            rows += len(chunk)
        stream.seek(0)
        _write_header(stream, kind.dtype, (rows, *kind.row))  # numpy leaves room for the number of rows
        assert stream.tell() == begin
    return rows


def write_record(
    draft: Path, shape: list[int], problems: Problems, where: Mapping[str, Any], facts: Mapping[str, Any]
) -> None:
    """Write store.json: the shape, what was left out, where the rows are, and facts besides."""
    record = {"version": STORE_VERSION, "shape": shape, "bad": problems, **where}
    record |= {"facts": dict(facts)} if facts else {}
    (draft / "store.json").write_text(record_text(json.dumps(record)), encoding="utf-8")


def _write_header(stream: BinaryIO, dtype: str, shape: tuple[int, ...]) -> None:
    facts = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, facts)


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        record = read_text(folder / "store.json")
        if record["version"] != STORE_VERSION:
            raise ValueError
        return record
    except FileNotFoundError:
        if folder.is_dir():
            raise Damaged("no store.json") from None
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise Damaged("store.json") from None
