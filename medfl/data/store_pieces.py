"""Stores of patches that are large, or of JPEGs: written piece by piece, so that a rendering that was stopped goes on.

A piece is made of so many positions among a site's patches, at most PIECE_BYTES and PIECE_PATCHES, whatever of them can
be read; its record is written once its file is whole and on the disk. A process that is killed loses the piece it was
at. A store that one array holds, uncompressed, is `images.npy` alone.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from medfl.data.atomic_file import flush, write_text
from medfl.data.patch_store import Patches
from medfl.data.scratch_folder import draft_of, resuming
from medfl.data.store_file import ArrayKind, Problems, reopened, write_array, write_record, write_rows_of, writing
from medfl.data.store_record import Damaged, PieceNote, block_sums, check_blocks, piece_name, read_note, record_text
from medfl.data.stored_patches import U8, WORKERS, encode_jpeg

PIECE_BYTES = 1 << 30
PIECE_PATCHES = 1 << 15
JPEG_SHARE = 0.4  # of the bytes of a patch, that room is looked for
PatchRange = Callable[[range, Problems], Iterator[U8]]
"""Gives the patches of some positions in their order, u8[k, S, S, 3] at a time, and notes what cannot be read."""
PatchProgress = Callable[[int], None]
"""Called with the number of patches each time some are done."""


def write_store(
    folder: Path,
    size: int,
    site: str,
    count: int,
    patches: PatchRange,
    problems: Problems,
    jpeg: int | None = None,
    progress: PatchProgress | None = None,
) -> tuple[Patches, Problems]:
    """Make a store of patches, or go on with one that was begun: it is whole or absent, whoever else writes it.

    Args:
        folder: the store's place.
        size: pixels a side of a patch.
        site: name of the site, for messages.
        count: of the site's patches, readable or not.
        patches: gives those of a piece.
        problems: what is left out; filled while patches are read.
        jpeg: quality of the JPEGs that are kept, None for the patches as they are.
        progress: called for pieces that are there already.

    Raises:
        MedflError: the folder cannot be written, there is no room, or what `patches` raises.
    """
    kind = ArrayKind("|u1", (size, size, 3))
    step = max(1, min(PIECE_BYTES // kind.row_bytes, PIECE_PATCHES))
    ranges = [range(begin, min(begin + step, count)) for begin in range(0, count, step)]
    if len(ranges) == 1 and jpeg is None:
        return write_rows_of(kind, folder, site, patches(ranges[0], problems), count, problems)
    need = int(count * kind.row_bytes * (JPEG_SHARE if jpeg else 1)) - _bytes_below(folder)
    with writing(folder, site, max(need, 0)), resuming(folder, "*.json") as draft:
        rows = 0
        for number, positions in enumerate(ranges):
            note = _earlier(draft, number, positions)
            if note is None:
                note = _write_piece(draft, number, positions, kind, patches, problems, jpeg)
            elif progress:
                progress(len(positions))
            problems.update({int(position): reason for position, reason in note.bad.items()})
            rows += note.rows
        write_record(draft, [rows, *kind.row], problems, {"pieces": len(ranges)}, {"jpeg": jpeg} if jpeg else {})
    return reopened(folder, site)


def _earlier(draft: Path, number: int, positions: range) -> PieceNote | None:
    """The record of a piece that an earlier process made, where its file is what was written."""
    try:
        note = read_note(draft / f"{piece_name(number)}.json")
        file = draft / note.file(number)
        check_blocks(file, file.stat().st_size, note.blocks)
    except (Damaged, OSError):
        return None
    return note if (note.begin, note.end) == (positions.start, positions.stop) else None


def _write_piece(
    draft: Path,
    number: int,
    positions: range,
    kind: ArrayKind,
    patches: PatchRange,
    problems: Problems,
    jpeg: int | None,
) -> PieceNote:
    name = piece_name(number)
    file = draft / f"{name}{'.npy' if jpeg is None else '.jpegs'}"
    chunks = patches(positions, problems)
    sizes = None
    try:
        if jpeg is None:
            rows = write_array(file, kind, chunks)
        else:
            sizes = _write_jpegs(file, chunks, jpeg)
            rows = len(sizes)
        flush(file)
        bad = {str(position): reason for position, reason in problems.items() if position in positions}
        note = PieceNote(positions.start, positions.stop, rows, bad, block_sums(file), sizes)
        write_text(draft / f"{name}.json", record_text(json.dumps(asdict(note))))
    except BaseException:
        with contextlib.suppress(OSError):
            file.unlink()
        raise
    return note


def _write_jpegs(file: Path, chunks: Iterator[U8], quality: int) -> list[int]:
    """Write patches as JPEGs, compressed on a few threads; the bytes of each."""
    sizes: list[int] = []
    with file.open("wb") as stream, ThreadPoolExecutor(WORKERS) as pool:
        for chunk in chunks:
            for content in pool.map(lambda patch: encode_jpeg(patch, quality), chunk):
                stream.write(content)
                sizes.append(len(content))
    return sizes


def _bytes_below(folder: Path) -> int:
    """Bytes of the pieces of a store that was begun."""
    return sum(file.stat().st_size for file in draft_of(folder).glob("images-*"))
