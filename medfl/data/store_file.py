"""Rendered patches on the disk, found again by what they were rendered from.

A store lies under `<cache>/stores/<key>/`: images.npy, and store.json with the shape, what was left out, and checksums
of both files. The key is a sha256 of the patches' names and fingerprints, of everything that shapes the pixels, and of
STORE_VERSION; so copied data find their store again, and changed data or settings do not.

Checksums are looked at whenever a process opens a store first, which takes about a second a gigabyte and core. Patches
are written through a file and not a memory map, so that a disk that fills is an error and not the end of the process.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from medfl.data.patch_store import I64, U8
from medfl.data.scratch_folder import making
from medfl.errors import MedflError

if TYPE_CHECKING:
    from medfl.data.partition import SitePartition

STORE_VERSION = 2
BLOCK = 1 << 24  # bytes that have a checksum of their own
Problems = dict[int, str]
"""Patches that cannot be read: position among the site's patches, and why."""
log = logging.getLogger(__name__)
_sound: set[tuple[str, int, int, int, int]] = set()
"""Stores that this process has checked: path, inode, size and times of images.npy."""


class Damaged(Exception):
    """A store that is not what was written; says in what."""


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


def open_store(folder: Path, site: str) -> tuple[U8, Problems] | None:
    """Images u8[n, S, S, 3], memory-mapped, and what was left out; None without a sound store.

    A damaged store is removed and a warning says so.
    """
    try:
        return read_store(folder)
    except FileNotFoundError:
        return None
    except Damaged as damage:
        log.warning("site %s: the store %s is damaged (%s); it is made anew", site, folder, damage)
        shutil.rmtree(folder, ignore_errors=True)
        return None


def read_store(folder: Path, recheck: bool = False) -> tuple[U8, Problems]:
    """Images and what was left out. `recheck` also reads a store again that this process has checked.

    Raises:
        FileNotFoundError: there is no store. Damaged: there is one that is not what was written.
    """
    record, file = _read_record(folder), folder / "images.npy"
    try:
        status = os.stat(file)
        mark = (str(file), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if recheck or mark not in _sound:
            _check_blocks(file, status.st_size, record["blocks"])
            _sound.add(mark)
        images: U8 = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise Damaged(f"{file.name}: {error}") from None
    return images, {int(position): str(reason) for position, reason in record["bad"].items()}


def write_store(
    folder: Path, size: int, site: str, patches: Iterator[U8], room: int, problems: Problems
) -> tuple[U8, Problems]:
    """Make a store beside its place, then rename it: it is whole or absent, whoever else writes it.

    Args:
        folder: the store's place.
        size: pixels a side of a patch.
        site: name of the site, for messages.
        patches: the images in their order, u8[k, S, S, 3] at a time.
        room: how many there may be.
        problems: what is left out; filled while `patches` is read.

    Raises:
        MedflError: the folder cannot be written, there is no room, or what `patches` raises.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _check_room(folder.parent, room * size * size * 3, site)
        with making(folder) as part:
            _write_files(part, size, patches, problems)
    except OSError as error:
        raise MedflError(
            f"site {site}: the cache {folder.parent} cannot be written ({error.strerror or error}); make room, or name "
            f"another folder under `data.cache` or in the environment variable MEDFL_CACHE"
        ) from None
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


def _write_files(part: Path, size: int, patches: Iterator[U8], problems: Problems) -> None:
    file, rows = part / "images.npy", 0
    with file.open("wb") as stream:
        _write_header(stream, (0, size, size, 3))
        begin = stream.tell()
        for chunk in patches:
            stream.write(np.ascontiguousarray(chunk).data)
            rows += len(chunk)
        stream.seek(0)
        _write_header(stream, (rows, size, size, 3))  # numpy leaves room for the number of rows
        assert stream.tell() == begin
    blocks = _block_sums(file, file.stat().st_size)
    record = {"version": STORE_VERSION, "shape": [rows, size, size, 3], "bad": problems, "blocks": blocks}
    (part / "store.json").write_text(_record_text(json.dumps(record)), encoding="utf-8")


def _write_header(stream: BinaryIO, shape: tuple[int, ...]) -> None:
    facts = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, facts)


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        text = (folder / "store.json").read_text(encoding="utf-8")
        body = text.split("\n")[0]
        if text != _record_text(body):
            raise ValueError
        record: dict[str, Any] = json.loads(body)
        if record["version"] != STORE_VERSION:
            raise ValueError
        return record
    except FileNotFoundError:
        if folder.is_dir():
            raise Damaged("no store.json") from None
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise Damaged("store.json") from None


def _check_blocks(file: Path, size: int, due: list[int]) -> None:
    """Raise Damaged unless a file's blocks have these checksums."""
    sums = _block_sums(file, size)
    if len(sums) != len(due):
        raise Damaged(f"{file.name}: {size:,} bytes are not what was written")
    bad = sum(here != there for here, there in zip(sums, due, strict=True))
    if bad:
        raise Damaged(f"{file.name}: {bad} of {len(sums)} blocks")


def _record_text(body: str) -> str:
    """A record as it is on the disk: one line of JSON, and a line with its checksum."""
    return f"{body}\n{zlib.crc32(body.encode()):08x}\n"


def _block_sums(file: Path, size: int) -> list[int]:
    """CRC-32 of each BLOCK of a file, on two threads (zlib leaves the lock of the interpreter)."""

    def sum_at(begin: int) -> int:
        with file.open("rb", buffering=0) as stream:
            stream.seek(begin)
            left, check = min(BLOCK, size - begin), 0
            while left and (piece := stream.read(min(left, 1 << 20))):
                check, left = zlib.crc32(piece, check), left - len(piece)
            return check

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(sum_at, range(0, size, BLOCK)))
