"""A whole slide as DICOM, written by hand from part 5 and supplement 145 of the standard: a file for each level."""

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

UID = "1.2.826.0.1.3680043.8.498."
SOP_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"  # VL whole slide microscopy image storage
EXPLICIT = "1.2.840.10008.1.2.1"  # explicit VR, little endian, pixels as they are
TILE = 64
LONG = ("OB", "OW", "SQ", "UN")

Element = tuple[int, str, bytes]


def write_dicom(folder: Path, levels: Sequence[np.ndarray], mpp: float, series: int = 1) -> Path:
    """Pictures u8[h, w, 3] of one slide, finest first, as `<series>-<level>.dcm`; their sides are whole tiles of 64."""
    folder.mkdir(parents=True, exist_ok=True)
    for level, pixels in enumerate(levels):
        scale = levels[0].shape[1] / pixels.shape[1]
        instance = f"{UID}{series}.{level + 1}"
        head = _elements(
            (0x00020001, "OB", b"\0\1"),
            (0x00020002, "UI", _uid(SOP_CLASS)),
            (0x00020003, "UI", _uid(instance)),
            (0x00020010, "UI", _uid(EXPLICIT)),
        )
        meta = _elements((0x00020000, "UL", struct.pack("<I", len(head)))) + head
        content = bytes(128) + b"DICM" + meta + _elements(*_image(pixels, instance, series, level, mpp * scale))
        (folder / f"{series}-{level}.dcm").write_bytes(content)
    return folder


def _image(pixels: np.ndarray, instance: str, series: int, level: int, mpp: float) -> list[Element]:
    height, width, _ = pixels.shape
    rows, columns = height // TILE, width // TILE
    frames = pixels.reshape(rows, TILE, columns, TILE, 3).swapaxes(1, 2)
    kind = "DERIVED\\PRIMARY\\VOLUME\\RESAMPLED" if level else "ORIGINAL\\PRIMARY\\VOLUME\\NONE"
    spacing = (0x00280030, "DS", _text(f"{mpp / 1000:.6f}\\{mpp / 1000:.6f}"))
    return [
        (0x00080008, "CS", _text(kind)),
        (0x00080016, "UI", _uid(SOP_CLASS)),
        (0x00080018, "UI", _uid(instance)),
        (0x0020000D, "UI", _uid(f"{UID}9")),
        (0x0020000E, "UI", _uid(f"{UID}{series}")),
        (0x00209311, "CS", _text("TILED_FULL")),
        (0x00280002, "US", struct.pack("<H", 3)),
        (0x00280004, "CS", _text("RGB")),
        (0x00280006, "US", struct.pack("<H", 0)),
        (0x00280008, "IS", _text(str(rows * columns))),
        (0x00280010, "US", struct.pack("<H", TILE)),
        (0x00280011, "US", struct.pack("<H", TILE)),
        (0x00280100, "US", struct.pack("<H", 8)),
        (0x00280101, "US", struct.pack("<H", 8)),
        (0x00280102, "US", struct.pack("<H", 7)),
        (0x00280103, "US", struct.pack("<H", 0)),
        (0x00480006, "UL", struct.pack("<I", width)),
        (0x00480007, "UL", struct.pack("<I", height)),
        (0x52009229, "SQ", _item((0x00289110, "SQ", _item(spacing)))),
        (0x7FE00010, "OW", frames.tobytes()),
    ]


def _elements(*elements: Element) -> bytes:
    parts = []
    for tag, kind, value in elements:
        length = struct.pack("<HI", 0, len(value)) if kind in LONG else struct.pack("<H", len(value))
        parts.append(struct.pack("<HH", tag >> 16, tag & 0xFFFF) + kind.encode() + length + value)
    return b"".join(parts)


def _item(*elements: Element) -> bytes:
    content = _elements(*elements)
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content


def _uid(text: str) -> bytes:
    return text.encode() + b"\0" * (len(text) % 2)


def _text(text: str) -> bytes:
    return text.encode() + b" " * (len(text) % 2)
