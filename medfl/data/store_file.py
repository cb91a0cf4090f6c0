"""Rendered patches on the disk, found again by what they were rendered from.

A store lies under `<cache>/stores/<key>/`: images.npy, and store.json with the shape and what was left out. The key is
a sha256 of the patches' names and fingerprints, of everything that shapes the pixels, and of STORE_VERSION; so
copied data find their store again, and changed data or settings do not.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medfl.data.partition import SitePartition
from medfl.data.patch_store import I64, U8
from medfl.errors import MedflError

STORE_VERSION = 2
Problems = dict[int, str]
"""Patches that cannot be read: position among the site's patches, and why."""


def store_key(share: SitePartition, settings: Mapping[str, Any]) -> str:
    """The name of the store of a site's patches, rendered by settings of plain values.

    Raises:
        MedflError: a patch is gone.
    """
    try:
        prints = share.catalog.source.fingerprints(share.references)
    except OSError as error:
        raise MedflError(f"site {share.site}: {error.filename} cannot be read: {error.strerror}") from None
    text = json.dumps({"version": STORE_VERSION, "look": settings, "names": share.names, "files": prints})
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def open_store(folder: Path) -> tuple[U8, Problems] | None:
    """Images u8[n, S, S, 3], memory-mapped, and what was left out; None without a sound store."""
    try:
        record = json.loads((folder / "store.json").read_text(encoding="utf-8"))
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        if list(images.shape) != record["shape"]:
            raise ValueError(images.shape)
        return images, {int(position): reason for position, reason in record["bad"].items()}
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, KeyError, TypeError):  # a damaged store is rendered again
        shutil.rmtree(folder, ignore_errors=True)
        return None


def write_store(
    folder: Path, shape: tuple[int, int, int, int], site: str, fill: Callable[[U8], tuple[int, Problems]]
) -> tuple[U8, Problems]:
    """Make a store beside its place, then rename it: it is whole or absent, whoever else writes it.

    Args:
        folder: the store's place.
        shape: of all images, u8[N, S, S, 3].
        site: name of the site, for messages.
        fill: writes images into the first rows of an array of that shape; returns how many, and what it left out.

    Raises:
        MedflError: the folder cannot be written, there is no room, or what `fill` raises.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise MedflError(
            f"the cache {folder.parent} cannot be written ({error.strerror}); name another folder under `data.cache` "
            f"or in the environment variable MEDFL_CACHE"
        ) from None
    try:
        _check_room(part, int(np.prod(shape)), site)
        _write_files(part, shape, fill)
        part.chmod(0o755)
        try:
            part.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first with the same store
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    store = open_store(folder)
    if store is None:
        raise MedflError(f"the store {folder} was lost while it was read; run again")
    return store


def store_digest(key: str, labels: I64, groups: I64, splits: dict[str, I64]) -> str:
    """Short sha256 of a store, its labels, groups and splits; the same wherever the data lie."""
    digest = hashlib.sha256(key.encode())
    for name in sorted(splits):
        digest.update(name.encode() + splits[name].astype("<i8").tobytes())
    digest.update(labels.astype("<i8").tobytes() + groups.astype("<i8").tobytes())
    return digest.hexdigest()[:16]


def _check_room(part: Path, need: int, site: str) -> None:
    free = shutil.disk_usage(part).free
    if free < need * 1.05:
        raise MedflError(
            f"site {site}: its patches need {need / 1e9:.1f} GB and {part.parent} has {free / 1e9:.1f} GB free; make "
            f"room, or name another folder under `data.cache`"
        )


def _write_files(part: Path, shape: tuple[int, int, int, int], fill: Callable[[U8], tuple[int, Problems]]) -> None:
    images = np.lib.format.open_memmap(part / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
    rows, problems = fill(images)
    images.flush()
    if problems:
        np.save(part / "readable.npy", images[:rows], allow_pickle=False)
        os.replace(part / "readable.npy", part / "images.npy")
    record = {"version": STORE_VERSION, "shape": [rows, *shape[1:]], "bad": problems}
    (part / "store.json").write_text(json.dumps(record), encoding="utf-8")
