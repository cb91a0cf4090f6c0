"""What the cache holds: rendered patches, generated tissue, notes; what is damaged in it, and what was left behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medfl.data.scratch_folder import folder_size, left_behind
from medfl.data.store_file import STORE_VERSION, Damaged, read_store

STORES, TISSUE = "stores", "tissue-"


@dataclass(frozen=True)
class CacheEntry:
    """Something in the cache: its place, bytes, and what it is in words; `outdated` where no run will read it again."""

    path: Path
    size: int
    text: str
    outdated: bool = False


def entries(cache: Path) -> list[CacheEntry]:
    """Stores, then tissue, then the rest, each sorted by name; unfinished folders are not among them."""
    listing = [_store_entry(folder) for folder in _stores(cache)]
    for path in sorted(cache.iterdir()) if cache.is_dir() else []:
        if path.name.startswith(".") or path.name == STORES or not path.is_dir():
            continue
        text = "generated tissue" if path.name.startswith(TISSUE) else "notes, made again when they are needed"
        listing.append(CacheEntry(path, folder_size(path), text))
    return listing


def private_places(cache: Path) -> list[Path]:
    """Folders of what is made of a site's patches and slides, or names them."""
    return [*_stores(cache), *left_behind(cache / STORES), *cache.glob("fingerprints"), *cache.glob("slides/*")]


def unfinished(cache: Path) -> list[CacheEntry]:
    """Stores and tissue that a killed process left half made."""
    folders = [*left_behind(cache / STORES), *left_behind(cache, f".{TISSUE}")]
    return [CacheEntry(path, folder_size(path), _left_text(path), True) for path in folders]


def _left_text(folder: Path) -> str:
    pieces = len(list(folder.glob("images-*.json")))
    begun = f", {pieces} pieces of patches from which a run of the same data goes on" if pieces else ""
    return f"left by a process that was killed{begun}"


def verify(cache: Path) -> Iterator[tuple[CacheEntry, str]]:
    """Read every store whole: each with what is damaged in it, or "". Stores of earlier versions are left out."""
    for folder in _stores(cache):
        entry = _store_entry(folder)
        if entry.outdated:
            continue
        try:
            read_store(folder, recheck=True)
            yield entry, ""
        except (Damaged, FileNotFoundError) as damage:
            yield entry, str(damage)


def _stores(cache: Path) -> list[Path]:
    folder = cache / STORES
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _store_entry(folder: Path) -> CacheEntry:
    """A store, as far as its record can be read."""
    try:
        record = json.loads((folder / "store.json").read_text(encoding="utf-8").splitlines()[0])
        rows, side, *_ = record["shape"]
        kind = " as JPEGs" if record.get("facts", {}).get("jpeg") else ""
        text, outdated = f"{int(rows):,} patches of {int(side)} pixels{kind}", record["version"] != STORE_VERSION
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError):
        text, outdated = "patches, without a record that can be read", False
    if outdated:
        text += ", of an earlier version"
    return CacheEntry(folder, folder_size(folder), text, outdated)
