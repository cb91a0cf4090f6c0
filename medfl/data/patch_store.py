"""What a site trains on and is measured on: one array of patches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medfl.data.stored_patches import I64 as I64
from medfl.data.stored_patches import U8 as U8
from medfl.data.stored_patches import StoredPatches

Patches = U8 | StoredPatches
"""u8[n, S, S, 3] as an array, or what is read like one."""


@dataclass(frozen=True)
class PatchStore:
    """One site's rendered patches.

    Attributes:
        site: name of the site.
        images: u8[n, S, S, 3], RGB; memory-mapped and read-only when it comes from the disk, or read like that from
            several files or JPEGs.
        labels: i64[n], index into the task's classes.
        groups: i64[n], source group (tile, slide, patient); equal numbers mean one source.
        splits: rows of each split, `train`, `val`, `test` at a training site and `test` alone at a held-out one.
        digest: short sha256 of content, labels, groups and splits; the same wherever the files lie.
        mpp: microns per pixel of `images`, None when unknown.
        names: n names of the patches at their site; they never leave it.
        group_names: names of the source groups that `groups` numbers; they never leave the site either.
        slides: i64[n], the slide of each patch; None where patches are not of slides.
        slide_names: names of the slides that `slides` numbers; they never leave the site either.
        skipped: how many files could not be read and were left out.
        folder: where `images` lie, and what is computed from them is kept; None in memory.
        jpeg: quality of the JPEGs that `images` are, None where they are as they were rendered.
    """

    site: str
    images: Patches
    labels: I64
    groups: I64
    splits: dict[str, I64]
    digest: str
    mpp: float | None = None
    names: tuple[str, ...] = ()
    group_names: tuple[str, ...] = ()
    slides: I64 | None = None
    slide_names: tuple[str, ...] = ()
    skipped: int = 0
    folder: Path | None = None
    jpeg: int | None = None
