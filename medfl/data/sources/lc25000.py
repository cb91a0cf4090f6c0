"""`source: lc25000`: LC25000 as distributed, with or without its parent folder `lung_colon_image_set`, or flat.

Its source groups are the tiles that its images are augmented copies of: the CSV that `data.source_groups` names, else
`source_groups.csv` inside the root, else `lc25000_source_groups.csv` inside or beside it.
"""

from __future__ import annotations

from pathlib import Path

from medfl.data.sources.class_folders import ClassFolders, visible_folders
from medfl.data.sources.group_table import GROUPS_CSV
from medfl.data.sources.source_registry import register

ORGANS = ("lung_image_sets", "colon_image_sets")
LC25000_PARENT = "lung_colon_image_set"
LC25000_CSV = "lc25000_source_groups.csv"
LEAK = (
    "LC25000 is 1,250 tiles, each augmented about 20 times, so a random split puts near copies of test images into "
    "training and every figure is too good (doi 10.1007/978-3-031-73748-0_2)"
)


def lc25000_folders(root: Path) -> list[Path]:
    """The class folders of LC25000's layout below `root`, sorted by name."""
    if (root / LC25000_PARENT).is_dir():
        root = root / LC25000_PARENT
    nested = [visible_folders(folder) if folder.name in ORGANS else [folder] for folder in visible_folders(root)]
    return sorted((folder for folders in nested for folder in folders), key=lambda folder: folder.name)


def lc25000_tables(root: Path) -> list[Path]:
    """Where the CSV of LC25000's source groups may lie."""
    return [root / GROUPS_CSV, root / LC25000_CSV, root.parent / LC25000_CSV]


@register
class Lc25000(ClassFolders):
    """The published images."""

    kind = "lc25000"
    root_variable = "MEDFL_LC25000"
    augmentation = LEAK

    def class_folders(self) -> list[Path]:
        """The folders that stand for classes, sorted by name."""
        return lc25000_folders(self.root)

    def group_tables(self) -> list[Path]:
        """Inside the root, or beside it."""
        return lc25000_tables(self.root)

    def is_published(self, table: Path) -> bool:
        """Published groups name the same tiles wherever the images lie; a CSV inside the root speaks of that root."""
        return table != self.root / GROUPS_CSV
