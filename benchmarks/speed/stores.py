"""Opening what is large: a store of a million rendered patches, with checksums of all its bytes and without."""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from benchmarks.speed.figure import Figure, interleaved
from medfl.data.store_file import read_store, write_record
from medfl.data.store_pieces import PIECE_PATCHES
from medfl.data.store_record import BLOCK, PieceNote, piece_name, record_text

PATCHES, SIDE, JPEG_BYTES = 1_000_000, 64, 1_500


def million(folder: Path, patches: int = PATCHES) -> Path:
    """The index of a store of so many JPEGs, over files that are as long and take no room on the disk."""
    zeros = bytes(BLOCK)
    whole = zlib.crc32(zeros)
    ranges = [range(begin, min(begin + PIECE_PATCHES, patches)) for begin in range(0, patches, PIECE_PATCHES)]
    for number, positions in enumerate(ranges):
        size = len(positions) * JPEG_BYTES
        blocks = [whole] * (size // BLOCK) + ([zlib.crc32(zeros[: size % BLOCK])] if size % BLOCK else [])
        sizes = [JPEG_BYTES] * len(positions)
        note = PieceNote(positions.start, positions.stop, len(positions), {}, blocks, sizes)
        with (folder / note.file(number)).open("wb") as stream:
            stream.truncate(size)
        (folder / f"{piece_name(number)}.json").write_text(record_text(json.dumps(asdict(note))), encoding="utf-8")
    write_record(folder, [patches, SIDE, SIDE, 3], {}, {"pieces": len(ranges)}, {"jpeg": 95})
    return folder


def opening(repeats: int) -> Iterator[Figure]:
    """Seconds to open it, over those of reading every byte for its checksum."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = million(Path(scratch))
        opened, whole = interleaved([lambda: read_store(folder), lambda: read_store(folder, recheck=True)], repeats)
    yield Figure(
        f"opening a store of {PATCHES:,} patches as JPEGs of {JPEG_BYTES:,} bytes",
        "the same with every checksum looked at",
        opened / whole,
        target=0.5,
        detail={"open_s": opened, "all_checksums_s": whole},
    )
