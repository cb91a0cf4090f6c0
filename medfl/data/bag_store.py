"""What a site trains on where its slides are bags of feature vectors, and what made these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfl.data.patch_store import I64, PatchStore
from medfl.errors import MedflError
from medfl.metrics.subgroups import SubgroupColumn
from medfl.plain_text import printable

WORD = 60  # characters of a name that a message shows
Features = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class FeatureOrigin:
    """What made feature vectors, as far as their files say it.

    Attributes:
        encoder: its name, "" where nothing says it.
        tile: what it saw, "256 px at 0.5 mpp" for example; "" where nothing says it.
    """

    encoder: str = ""
    tile: str = ""

    def __str__(self) -> str:
        return ", ".join(filter(None, (_shown(self.encoder), _shown(self.tile)))) or "unknown"


UNSTATED = FeatureOrigin()


@dataclass(frozen=True)
class BagStore:
    """One site's bags, one for each slide.

    Attributes:
        site: name of the site.
        features: f32 or f16 [N, F], the instances of all bags one after another; memory-mapped and read-only when it
            comes from the disk.
        offsets: i64[n + 1]; bag i is `features[offsets[i]:offsets[i + 1]]`.
        labels: i64[n], index into the task's classes.
        groups: i64[n], the patient of each slide; equal numbers mean one patient.
        splits: rows of each split, as in `PatchStore`.
        digest: short sha256 of content, labels, groups and splits; the same wherever the files lie.
        origin: what made the features.
        names: n names of the slides at their site; they never leave it.
        group_names: names of the patients that `groups` numbers; they never leave the site either.
        subgroups: columns of subgroups of its slides, as in `PatchStore`.
        skipped: how many slides could not be read and were left out.
        folder: where `features` lie; None in memory.
    """

    site: str
    features: Features
    offsets: I64
    labels: I64
    groups: I64
    splits: dict[str, I64]
    digest: str
    origin: FeatureOrigin = UNSTATED
    names: tuple[str, ...] = ()
    group_names: tuple[str, ...] = ()
    subgroups: tuple[SubgroupColumn, ...] = ()
    skipped: int = 0
    folder: Path | None = None

    @property
    def sizes(self) -> I64:
        """i64[n]: instances of each bag."""
        return np.diff(self.offsets)


SiteStore = PatchStore | BagStore
"""What a site holds: patches, or bags of features."""


def stored_bytes(store: SiteStore) -> int:
    """Bytes of a site's pixels, or of its features."""
    return store.features.nbytes if isinstance(store, BagStore) else store.images.nbytes


def common_origin(origins: Iterable[FeatureOrigin]) -> FeatureOrigin:
    """What made the features of several sites, as far as any of them says it; they agree (`check_origins`)."""
    origins = list(origins)
    encoders, tiles = [o.encoder for o in origins if o.encoder], [o.tile for o in origins if o.tile]
    return FeatureOrigin(encoders[0] if encoders else "", tiles[0] if tiles else "")


def check_origins(origins: Mapping[str, FeatureOrigin]) -> list[str]:
    """Compare what made the features of several sites; a sentence for each site whose tiles are of another size.

    Raises:
        MedflError: two sites have features of two encoders.
    """
    warnings = []
    for part in ("encoder", "tile"):
        stating = {site: getattr(origin, part) for site, origin in origins.items() if getattr(origin, part)}
        first = next(iter(stating), "")
        for site, value in stating.items():
            if value == stating[first]:
                continue
            if part == "encoder":
                raise MedflError(
                    f"site {site} has features of {_shown(value)}, site {first} of {_shown(stating[first])}; a model "
                    f"reads those of one encoder: extract them anew, or, where two names mean one, state the same "
                    f"`data.features.encoder` in both site files"
                )
            warnings.append(
                f"site {site}: its features show tiles of {_shown(value)}, those of {first} of "
                f"{_shown(stating[first])}; one encoder gives other numbers for them"
            )
    return warnings


def _shown(name: str) -> str:
    return printable(name, WORD)
