"""What is large: opening a store of a million rendered patches, and training on patches that are kept as JPEGs."""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.speed.figure import Figure, interleaved
from benchmarks.speed.workload import Rounds, store, work, workbench
from medfl.data.store_file import read_store, write_record
from medfl.data.store_pieces import PIECE_PATCHES, write_store
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


def training_on_jpegs(repeats: int) -> Iterator[Figure]:
    """Patches a second of a round over a store of JPEGs over those over an array: ResNet-50, 224 px, 4 steps of 8."""
    array = store("site", 64, 224)
    with tempfile.TemporaryDirectory() as scratch:
        patches = (array.images[row : row + 1] for row in range(len(array.labels)))
        jpegs, _ = write_store(Path(scratch) / "store", 224, "site", 64, lambda positions, problems: patches, {}, 95)
        rounds = [
            Rounds(workbench("resnet50", []), [each], work(4, batch_size=8))
            for each in (array, replace(array, images=jpegs))
        ]
        whole, decoded = interleaved([round_.play for round_ in rounds], max(3, repeats))
    yield Figure(
        "patches a second from a store of JPEGs, resnet50 224 px",
        "the same patches in memory",
        whole / decoded,
        target=0.9,
        at_least=True,
        detail={"memory_s": whole, "jpegs_s": decoded},
    )
