"""A site's bags as the model will see them: read once into one array on disk, and found again.

Files of features lie about one by one, compressed or not; training draws from all of them in every round. The numbers
are those of the files, 16 bits where all files have 16 and 32 else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from medfl import config
from medfl.config.spelling import show
from medfl.data.bag_files.bag_reader import BagHeader, read_bag, read_header
from medfl.data.bag_store import BagStore, FeatureOrigin, Features, check_origins
from medfl.data.partition import Partition, SitePartition
from medfl.data.render import readable_rows
from medfl.data.rgb import Unreadable
from medfl.data.sources.feature_folders import FeatureFolders
from medfl.data.store_file import (
    ArrayKind,
    Problems,
    open_store,
    store_digest,
    store_facts,
    store_key,
    write_rows_of,
)
from medfl.data.store_pieces import PatchProgress
from medfl.errors import MedflError

BAG_STORE_VERSION = 1
T = TypeVar("T")
Rows = tuple[Any, Problems]
"""What a store of bags holds: features of the type that it has on the disk, and slides left out."""


def render_bags(
    pipeline: config.Pipeline, share: SitePartition, source: FeatureFolders, progress: PatchProgress | None = None
) -> BagStore:
    """The site's bags, from the cache or read now.

    Raises:
        MedflError: damaged files under `on_bad_image: refuse` (listed), features of another length than `model.dim`, of
            several encoders, a split of nothing but damaged files, no room on the disk.
    """
    key = store_key(share, {"bags": BAG_STORE_VERSION})
    folder = pipeline.cache_dir / "stores" / key
    store = open_store(folder, share.site)
    if store is None:
        problems: Problems = {}
        headers = _headers(share, source, problems)
        facts = _facts(share, headers)
        good = [header for header in headers if header is not None]
        _check_dim(pipeline, share, good[0].dim, facts["origin"][0])
        kind = ArrayKind("<f2" if all(header.half for header in good) else "<f4", (good[0].dim,), facts)
        bags = _bags(share, source, headers, kind, problems, progress)
        store = write_rows_of(kind, folder, share.site, bags, sum(header.instances for header in good), problems)
    elif progress:
        progress(len(share.rows))
    facts = store_facts(folder)
    _check_dim(pipeline, share, store[0].shape[1], facts["origin"][0])
    return bag_store(pipeline, share, folder, store, _origin(source, FeatureOrigin(*facts["origin"])))


def bag_store(
    pipeline: config.Pipeline, share: SitePartition, folder: Path, store: Rows, origin: FeatureOrigin
) -> BagStore:
    """A site's bags over what its store, in the folder `<cache>/stores/<key>`, holds. Raises MedflError as
    `readable_rows`."""
    features, problems = store
    facts = store_facts(folder)
    kept = readable_rows(pipeline, share, problems)
    sizes = [size for position, size in enumerate(facts["sizes"]) if position not in problems]
    return BagStore(
        site=share.site,
        features=features,
        offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        digest=store_digest(folder.name, kept.labels, kept.groups, kept.splits),
        origin=origin,
        folder=folder,
        **vars(kept),
    )


def _headers(share: SitePartition, source: FeatureFolders, problems: Problems) -> list[BagHeader | None]:
    """The header of each slide's file; None where it is damaged, which `problems` notes."""
    headers: list[BagHeader | None] = []
    for position, path in enumerate(_paths(share, source)):
        try:
            headers.append(_now(read_header, path, share))
        except Unreadable as error:
            problems[position] = str(error)
            headers.append(None)
    if all(header is None for header in headers):
        shown = ", ".join(f"{share.locations[at]} ({why})" for at, why in list(problems.items())[:3])
        raise MedflError(f"site {share.site}: none of its {len(headers)} slides can be read: {shown}; replace them")
    return headers


def _paths(share: SitePartition, source: FeatureFolders) -> list[Path]:
    return [source.path(reference) for reference in share.references]


def _now(read: Callable[[Path], T], path: Path, share: SitePartition) -> T:
    """What `read` gives. Raises Unreadable for a file that is damaged, MedflError where it cannot be opened now."""
    try:
        return read(path)
    except OSError as error:
        raise MedflError(
            f"site {share.site}: {path} cannot be read now ({error.strerror or error}), which need not be the file's "
            f"fault; mend that and give the same command again"
        ) from None


def _facts(share: SitePartition, headers: Sequence[BagHeader | None]) -> dict[str, Any]:
    """What a store's record holds: instances of each slide, and what made the features.

    Raises:
        MedflError: features of two lengths, or of two encoders.
    """
    good = [(position, header) for position, header in enumerate(headers) if header is not None]
    for what in ("dim", "encoder"):
        values = [header.dim if what == "dim" else header.origin.encoder for _, header in good]
        counts = Counter(value for value in values if value)
        if len(counts) > 1:
            other = min(counts, key=lambda value: counts[value])
            place = share.locations[good[values.index(other)][0]]
            noun = "numbers a tile" if what == "dim" else "encoders"
            listed = ", ".join(f"{show(str(value))} ({count} slides)" for value, count in counts.most_common())
            raise MedflError(
                f"site {share.site}: its features have different {noun}: {listed}; a model reads those of one encoder: "
                f"extract {place} and its like anew, or point `data.root` at a folder without them"
            )
    tiles = Counter(header.origin.tile for _, header in good if header.origin.tile)
    origin = [next((h.origin.encoder for _, h in good if h.origin.encoder), ""), " or ".join(sorted(tiles))[:60]]
    return {"sizes": [header.instances if header else 0 for header in headers], "origin": origin}


def _bags(
    share: SitePartition,
    source: FeatureFolders,
    headers: Sequence[BagHeader | None],
    kind: ArrayKind,
    problems: Problems,
    progress: PatchProgress | None,
) -> Iterator[Features]:
    """The features [n, F] of each slide in turn; what is damaged after all is left out and noted in `problems`."""
    for position, (path, header) in enumerate(zip(_paths(share, source), headers, strict=True)):
        if header is not None:
            try:
                features, _ = _now(read_bag, path, share)
            except Unreadable as error:
                problems[position] = str(error)
            else:
                yield features.astype(kind.dtype, copy=False)
        if progress:
            progress(1)


def _check_dim(pipeline: config.Pipeline, share: SitePartition, dim: int, encoder: str) -> None:
    """Raise MedflError unless features have the length that the model reads."""
    if dim != pipeline.model.dim:
        made = f" of {show(encoder)}" if encoder else ""
        raise MedflError(
            f"site {share.site}: its features{made} have {dim} numbers a tile, and `model.dim` is {pipeline.model.dim}"
            f"; state the number of the encoder, which is one for all sites"
        )


def _origin(source: FeatureFolders, of_files: FeatureOrigin) -> FeatureOrigin:
    """What made the features: as the site says, else its files, else the folders that they lie in."""
    of_folder = source.layout.origin
    encoder = source.spec.features.encoder or of_files.encoder or of_folder.encoder
    return FeatureOrigin(encoder, of_files.tile or of_folder.tile)


def bag_warnings(partition: Partition) -> list[str]:
    """Sentences on slides whose files are damaged, or have the same content as another one's; headers alone are read.

    Raises:
        MedflError: features of two encoders or lengths.
    """
    warnings: list[str] = []
    places: dict[str, str] = {}
    origins = {}
    for share in partition.sites:
        source, problems = share.catalog.source, Problems()
        if not isinstance(source, FeatureFolders):
            continue  # slides, which have been tiled: a damaged one is known
        origins[share.site] = _origin(
            source, FeatureOrigin(*_facts(share, _headers(share, source, problems))["origin"])
        )
        if problems:
            first, reason = next(iter(problems.items()))
            warnings.append(
                f"site {share.site}: {len(problems)} of {len(share.rows)} slides cannot be read, the first is "
                f"{share.locations[first]} ({reason})"
            )
        for print_, location in zip(source.fingerprints(share.references), share.locations, strict=True):
            if places.setdefault(print_, location) != location:
                warnings.append(
                    f"site {share.site}: {location} has the same content as {places[print_]}; keep one of them"
                )
    return warnings + check_origins(origins)
