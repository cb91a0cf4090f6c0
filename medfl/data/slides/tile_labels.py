"""Which class a tile has: the one whose regions cover most of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medfl.data.slides.slide_tiling import SlideTiling

TOLERATED = 0.05  # overlap of two classes' regions, of the smaller one: borders are drawn by hand
MAJORITY = 0.5


def contradiction(tiling: SlideTiling, classes: Mapping[str, int | None]) -> str:
    """Why the regions of a slide do not say what is what, in a sentence; empty where they do.

    Args:
        tiling: the slide's.
        classes: what the words of its regions stand for, None for one that is left out.
    """
    for one, other, share in tiling.overlaps:
        if share > TOLERATED and classes[one] != classes[other]:
            return (
                f"{share:.0%} of the regions of {one} or of {other} lie under those of the other, so it is not said "
                f"which they are; cut one out of the other where they were drawn"
            )
    return ""


def tile_labels(tiling: SlideTiling, classes: Mapping[str, int | None]) -> list[str]:
    """For each tile the word that covers most of it within the class that covers more than half; empty without one.

    Args:
        tiling: as of a slide with regions.
        classes: what their words stand for, None for one that is left out.
    """
    shares = np.array(tiling.shares, dtype=np.float64).reshape(len(tiling.x), len(tiling.words))
    meanings = sorted(set(classes.values()), key=str)
    member = np.array([[classes[word] == meaning for meaning in meanings] for word in tiling.words], dtype=np.float64)
    by_class = shares @ member
    best = by_class.argmax(axis=1)
    labelled = by_class[np.arange(len(best)), best] > MAJORITY
    words = (shares * member.T[best]).argmax(axis=1)
    return [tiling.words[word] if label else "" for word, label in zip(words, labelled, strict=True)]
