"""A stand-in for a frozen encoder, and a ward of small slides with labels."""

from pathlib import Path

import numpy as np

from tests.slides import pyramid, tissue


class MeanColour:
    """Three numbers a tile; counts the tiles that it has seen."""

    name, dim = "mean-colour", 3

    def __init__(self):
        self.seen = 0

    @property
    def settings(self):
        return {"encoder": self.name}

    def __call__(self, tiles):
        self.seen += len(tiles)
        return tiles.mean(axis=(1, 2)).astype(np.float32)


def ward(root: Path, patients: int = 6) -> Path:
    """One slide a patient, of two classes, with 4 tiles of 32 pixels at 1 micron; and one without a label."""
    root.mkdir()
    rows = ["slide,patient,label"]
    for number in range(patients):
        pyramid(root / f"s{number}.tif", tissue(128, 128, (0, 0, 64, 64), seed=number))
        rows.append(f"s{number},P{number},{('tumour', 'normal')[number % 2]}")
    pyramid(root / "bare.tif", tissue(128, 128, (0, 0, 64, 64), seed=99))
    (root / "slides.csv").write_text("\n".join([*rows, "bare,P0,"]) + "\n")
    return root


def damage_pixels(slide: Path) -> None:
    """Break the compressed pixels of a TIFF's first tiles; its head stays as it is."""
    content = bytearray(slide.read_bytes())
    content[200:1200] = bytes(1000)
    slide.write_bytes(content)
