"""A site's patches split into train, val and test by source group."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medfl.data.atomic_file import replacing
from medfl.data.patch_store import I64
from medfl.seeds import seed_for

SPLITS = ("train", "val", "test")
TRAIN, VAL, TEST = range(3)
MAX_FOLDS = 10


def split_by_group(
    labels: I64, groups: I64, val: float, test: float, seed: object, cache: Path | None = None
) -> dict[str, I64]:
    """Positions of each split, `{train, val, test: i64[...]}`, sorted; a group is in one split only.

    Stratified by class with scikit-learn's StratifiedGroupKFold, the shares of patches near `val` and `test`. Every
    class with at least three groups is then brought into all three splits where moving a group allows it. The result
    depends on the group numbers' order and `seed`, not on the order of rows. Fewer than three groups leave a split
    empty. What scikit-learn draws is kept in the folder `cache`, where one is given: importing it takes as long as all
    else before a second run's first step.
    """
    names, of_row = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(names), int(labels.max(initial=0)) + 1), dtype=np.int64)
    np.add.at(counts, (of_row, labels), 1)
    split = np.full(len(names), TRAIN)
    in_test = _fold(counts, test, seed_for(seed, "test"), cache)
    split[in_test] = TEST
    rest = np.flatnonzero(~in_test)
    split[rest[_fold(counts[rest], val / (1 - test), seed_for(seed, "val"), cache)]] = VAL
    _repair(counts, split)
    return {name: np.flatnonzero(split[of_row] == index) for index, name in enumerate(SPLITS)}


@functools.cache
def _drawing_versions() -> tuple[str, str]:
    return version("scikit-learn"), version("numpy")


def _fold(counts: I64, share: float, seed: int, cache: Path | None) -> NDArray[np.bool_]:
    """`_draw`, or what it gave before for the same arguments."""
    if cache is None:
        return _draw(counts, share, seed)
    facts = json.dumps([counts.shape, share, seed, *_drawing_versions()])
    digest = hashlib.sha256(facts.encode() + counts.tobytes()).hexdigest()
    file = cache / f"{digest[:32]}.npy"
    with contextlib.suppress(OSError, ValueError, EOFError):
        draw: NDArray[np.bool_] = np.load(file, allow_pickle=False)
        if draw.shape == (len(counts),) and draw.dtype == np.bool_:
            return draw
    draw = _draw(counts, share, seed)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time and nothing else
        cache.mkdir(parents=True, exist_ok=True)
        with replacing(file) as staged, staged.open("wb") as stream:
            np.save(stream, draw, allow_pickle=False)
    return draw


def _draw(counts: I64, share: float, seed: int) -> NDArray[np.bool_]:
    """Which groups (bool[G]) make up about `share` of the patches of every class; counts i64[G, C]."""
    from sklearn.model_selection import StratifiedGroupKFold

    selection = np.zeros(len(counts), dtype=bool)
    most = min(MAX_FOLDS, len(counts), int(counts.sum(axis=0).max(initial=0)))
    if most < 2:
        return selection
    # m of K folds come nearest to the share; the fewest folds among equals, which keeps each fold rich in groups
    folds = min(range(2, most + 1), key=lambda k: (round(abs(max(1, round(share * k)) / k - share), 9), k))
    rows, of_row = np.repeat(np.arange(len(counts)), counts.sum(axis=1)), []
    for group in counts:
        of_row.append(np.repeat(np.arange(len(group)), group))
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class with fewer patches than folds: `_repair` sees to it
        parts = [np.unique(rows[part]) for _, part in splitter.split(rows, np.concatenate(of_row), rows)]
    parts = [part for part in parts if len(part)]
    target, have = share * counts.sum(axis=0), np.zeros(counts.shape[1])
    for _ in range(min(max(1, round(share * folds)), len(parts) - 1)):
        best = min(range(len(parts)), key=lambda k: float(np.abs(target - have - counts[parts[k]].sum(axis=0)).sum()))
        part = parts.pop(best)
        selection[part] = True
        have += counts[part].sum(axis=0)
    return selection


def _repair(counts: I64, split: I64) -> None:
    """Move single groups, in place, so that every class with three groups or more is in every split.

    The site as a whole counts as one more class, so no split of a site with three groups stays empty. A group moves
    only where its donor keeps another group of each of the group's classes.
    """
    has = np.column_stack([counts.sum(axis=1) > 0, counts > 0])
    size = counts.sum(axis=1)
    for kind in np.argsort(has.sum(axis=0) * (np.arange(has.shape[1]) > 0), kind="stable"):
        members = np.flatnonzero(has[:, kind])
        if len(members) < len(SPLITS):
            continue
        for receiver in range(len(SPLITS)):
            if (split[members] == receiver).any():
                continue
            in_split = np.array([has[split == s].sum(axis=0) for s in range(len(SPLITS))])
            free = [g for g in members if (in_split[split[g]][has[g]] > 1).all()]
            if kind == 0 and not free:  # a split must not be empty, whatever a class loses
                free = [g for g in members if in_split[split[g]][0] > 1]
            if free:
                split[min(free, key=lambda g: (size[g], g))] = receiver
