"""What a store in the cache says of itself: records with a checksum, and checksums of the files that hold its rows."""

from __future__ import annotations

import json
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STORE_VERSION = 2
BLOCK = 1 << 24  # bytes that have a checksum of their own


class Damaged(Exception):
    """A store that is not what was written; says in what."""


@dataclass(frozen=True)
class PieceNote:
    """The record of one piece of a store.

    Attributes:
        begin, end: positions among the site's patches that it is made of.
        rows: how many of them could be read.
        bad: why the others could not, by position.
        blocks: checksums of its file.
        sizes: bytes of each patch where they are JPEGs, else None.
    """

    begin: int
    end: int
    rows: int
    bad: dict[str, str]
    blocks: list[int]
    sizes: list[int] | None = None

    def file(self, number: int) -> str:
        """The name of its file."""
        return piece_name(number) + (".npy" if self.sizes is None else ".jpegs")


def piece_name(number: int) -> str:
    """What the files of a piece are called, without their endings."""
    return f"images-{number:04d}"


def read_note(file: Path) -> PieceNote:
    """The record of a piece. Raises Damaged."""
    try:
        return PieceNote(**read_text(file))
    except (OSError, ValueError, TypeError, RecursionError):
        raise Damaged(file.name) from None


def read_text(file: Path) -> dict[str, Any]:
    """A record. Raises OSError and ValueError, the latter where it is not what was written."""
    text = file.read_text(encoding="utf-8")
    body = text.split("\n")[0]
    if text != record_text(body):
        raise ValueError
    record: dict[str, Any] = json.loads(body)
    return record


def check_blocks(file: Path, size: int, due: list[int]) -> None:
    """Raise Damaged unless a file's blocks have these checksums."""
    sums = block_sums(file)
    if len(sums) != len(due):
        raise Damaged(f"{file.name}: {size:,} bytes are not what was written")
    bad = sum(here != there for here, there in zip(sums, due, strict=True))
    if bad:
        raise Damaged(f"{file.name}: {bad} of {len(sums)} blocks")


def record_text(body: str) -> str:
    """A record as it is on the disk: one line of JSON, and a line with its checksum."""
    return f"{body}\n{zlib.crc32(body.encode()):08x}\n"


def block_sums(file: Path) -> list[int]:
    """CRC-32 of each BLOCK of a file, on two threads (zlib leaves the lock of the interpreter)."""
    size = file.stat().st_size

    def sum_at(begin: int) -> int:
        with file.open("rb", buffering=0) as stream:
            stream.seek(begin)
            left, check = min(BLOCK, size - begin), 0
            while left and (piece := stream.read(min(left, 1 << 20))):
                check, left = zlib.crc32(piece, check), left - len(piece)
            return check

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(sum_at, range(0, size, BLOCK)))
