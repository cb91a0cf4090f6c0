"""A site's patches in another stain: made once, kept beside those they were made of, and found again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from medfl.data.normalise import NoStain, StainStatistics, method_of, normalise, stain_statistics, statistics_of
from medfl.data.patch_store import I64, U8, PatchStore
from medfl.data.store_file import Problems, open_store
from medfl.data.store_pieces import write_store

PATCHES = 1024  # behind a site's statistics, evenly over its patches
CHUNK = 256  # patches normalised at a time
STAINED_VERSION = 1  # of how; a store of another is not found again
log = logging.getLogger(__name__)


def own_rows(store: PatchStore) -> I64:
    """The patches that a site's stain is measured on: those that train, or all where none does."""
    return store.splits.get("train", np.arange(len(store.labels)))


def store_statistics(store: PatchStore, method: str) -> StainStatistics | None:
    """The stain of a site, by at most 1,024 of its patches; None where they have none, which a warning says."""
    rows = own_rows(store)
    try:
        return stain_statistics(store.images[rows[:: max(1, -(-len(rows) // PATCHES))]], method)
    except NoStain as reason:
        log.warning("site %s: its patches have no stain to be measured: %s", store.site, reason)
        return None


def in_stain(
    store: PatchStore, reference: Sequence[float], measured: Callable[[str], StainStatistics | None] | None = None
) -> PatchStore:
    """A site's patches brought from their own stain to another; as they are, which a warning says, where their own
    cannot be measured.

    Args:
        store: the patches as they were rendered.
        reference: numbers of the stain they are brought to; none leaves them as they are.
        measured: the site's own by a method, where somebody has measured it already.

    Raises:
        ValueError: numbers that no stain has. MedflError: the cache cannot be written.
    """
    if not reference:
        return store
    target = statistics_of(reference)
    own = measured(method_of(target)) if measured else store_statistics(store, method_of(target))
    if own is None:
        log.warning("site %s: its patches are not normalised, they stay as they are", store.site)
        return store

    def patches(positions: range, _: Problems) -> Iterator[U8]:
        for begin in range(positions.start, positions.stop, CHUNK):
            yield normalise(store.images[begin : min(begin + CHUNK, positions.stop)], own, target)

    look = json.dumps([STAINED_VERSION, own.numbers, target.numbers])
    digest = hashlib.sha256(f"{store.digest} {look}".encode()).hexdigest()[:16]
    everything = range(len(store.images))
    if store.folder is None:
        return dataclasses.replace(store, images=np.concatenate(list(patches(everything, {}))), digest=digest)
    folder = store.folder.with_name(hashlib.sha256(f"{store.folder.name} {look}".encode()).hexdigest()[:32])
    made = open_store(folder, store.site)
    if made is None:
        made = write_store(folder, store.images.shape[1], store.site, len(everything), patches, {}, store.jpeg)
    return dataclasses.replace(store, images=made[0], digest=digest, folder=folder)
