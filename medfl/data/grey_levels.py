"""Whether a site's patches look like patches: neither flat, nor far from every other site's grey levels.

Files that can be decoded and are not what was meant (a label, a mask, levels of another range) show in two figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medfl.data.partition import Partition
from medfl.data.patch_store import U8, PatchStore
from medfl.data.rgb import Unreadable
from medfl.data.transforms import FLAT

SAMPLE = 200  # patches of a site that are looked at, where they are rendered
MANY, RUN = 50_000, 10  # of more patches so many that lie together are: what is far apart is read from the disk apart
READ, READ_BY_ALL = 24, 600  # files that are read of one site, and of all
MOSTLY = 0.5  # of a site's patches
FAR = 60.0  # grey levels between a site's mean and the nearest other site's; laboratories' stains differ by less


@dataclass(frozen=True)
class GreyLevels:
    """Of a site: the mean grey level of its patches, the share of patches in which nothing is seen, and how many."""

    mean: float
    flat: float
    patches: int


_levels: dict[str, GreyLevels] = {}
"""Of the stores that this process has looked at, by their digest."""


def grey_levels(patches: Iterable[U8]) -> GreyLevels | None:
    """The figures of some patches u8[H, W, 3]; None without any."""
    figures = np.array([_mean_and_spread(patch) for patch in patches])
    if not len(figures):
        return None
    return GreyLevels(float(figures[:, 0].mean()), float((figures[:, 1] < FLAT).mean()), len(figures))


def _mean_and_spread(patch: U8) -> tuple[float, float]:
    """Mean of a patch, and the largest standard deviation of a channel."""
    pixels = np.ascontiguousarray(patch.reshape(-1, 3).T).astype(np.float64)
    mean, square = pixels.mean(axis=1), np.einsum("cn,cn->c", pixels, pixels) / pixels.shape[1]
    return float(mean.mean()), float(np.sqrt(np.maximum(square - mean * mean, 0.0)).max())


def grey_warnings(levels: Mapping[str, GreyLevels]) -> list[str]:
    """A sentence for each site, by name, whose patches are mostly flat or far from those of every other site."""
    warnings = []
    for site, own in levels.items():
        others = {n: abs(own.mean - other.mean) for n, other in levels.items() if n != site and other.flat < MOSTLY}
        nearest = min(others, key=lambda name: others[name], default=None)
        if own.flat >= MOSTLY:
            warnings.append(
                f"site {site}: {own.flat:.0%} of {own.patches} patches looked at are nearly constant (mean grey level "
                f"{own.mean:.0f}); see `medfl sites preview` whether they are what was meant"
            )
        elif nearest is not None and others[nearest] > FAR:
            warnings.append(
                f"site {site}: the mean grey level is {own.mean:.0f}, and {levels[nearest].mean:.0f} at {nearest}, the "
                f"nearest other site; see `medfl sites preview` whether its patches are what was meant"
            )
    return warnings


def store_warnings(stores: Mapping[str, PatchStore]) -> list[str]:
    """`grey_warnings` of rendered patches."""
    sampled = {name: _levels_of(store) for name, store in stores.items()}
    return grey_warnings({name: levels for name, levels in sampled.items() if levels is not None})


def _levels_of(store: PatchStore) -> GreyLevels | None:
    """Those of some of a store's patches, looked at once in a process: a study has many runs of the same stores."""
    levels = _levels.get(store.digest)
    if levels is None or levels.patches != min(len(store.images), SAMPLE):
        levels = grey_levels(store.images[row] for row in _rendered(len(store.images)))
        if levels is None:
            return None
        _levels[store.digest] = levels
    return levels


def file_warnings(partition: Partition) -> list[str]:
    """`grey_warnings` of some of each site's patches, read from their source; and which of these cannot be read."""
    warnings = []
    levels = {}
    limit = max(4, min(READ, READ_BY_ALL // max(1, len(partition.sites))))
    for share in partition.sites:
        patches, problems, readers = [], {}, share.readers
        rows = _some(len(readers), limit)
        for row in rows:
            try:
                patches.append(readers[row]())
            except Unreadable as error:
                problems[share.locations[row]] = str(error)
        if problems:
            first, reason = next(iter(problems.items()))
            warnings.append(
                f"site {share.site}: {len(problems)} of {len(rows)} images looked at cannot be read, the first is "
                f"{first} ({reason})"
            )
        if (own := grey_levels(patches)) is not None:
            levels[share.site] = own
    return warnings + grey_warnings(levels)


def _rendered(count: int) -> Sequence[int]:
    """Which of so many rendered patches are looked at."""
    if count <= MANY:
        return _some(count, SAMPLE)
    return [row + at for row in _some(count - RUN, SAMPLE // RUN) for at in range(RUN)]


def _some(count: int, limit: int) -> Sequence[int]:
    """At most `limit` of the numbers below `count`, evenly spaced."""
    return [int(row) for row in np.unique(np.linspace(0, count - 1, min(count, limit)).round())] if count else []
