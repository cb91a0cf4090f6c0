"""Which images show the same piece of tissue: turned, mirrored, moderately magnified, shifted.

1. Candidates. Each half of a descriptor is replaced by the nearest of 512 examples, the pair of both being its word
   (an inverted multi-index; Babenko and Lempitsky, CVPR 2012). Images are compared, as they are and mirrored, by the
   cosine of their word counts, weighted by rarity (Sivic and Zisserman, ICCV 2003); the CANDIDATES best go on.
2. Proof. Keypoints of two images are matched by descriptor (mutual nearest neighbours that pass Lowe's ratio test),
   and RANSAC looks for one turn, zoom and shift under which at least MATCHES of them coincide. Unrelated tissue
   yields five or fewer. The transformation tells how much of the smaller field both images show: the overlap.
3. Links. A group is what pairs of enough overlap connect (connected components); nothing else joins two images.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from medfl.data.decode import WORKERS
from medfl.data.duplicates.keypoints import F32, SCALE, UPSIDE_DOWN, Keypoints, Progress, one_thread_each
from medfl.data.patch_store import I64, U8

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

CANDIDATES = 20  # images, as they are or mirrored, that each image is compared with in earnest
WORDS = 512  # examples for each half of a descriptor
PER_EXAMPLE = 64  # keypoints for every example, at least: with fewer, no two images would share a word
MATCHES = 8  # keypoints that must coincide
RATIO = 0.85  # of the distances to the nearest and to the second nearest descriptor
TOLERANCE = 3.0  # pixels between keypoints that coincide
ZOOM = 3.0  # the greatest, either way
BLOCK = 500  # images whose scores with all others are held at once; pairs compared between two reports


@dataclass(frozen=True)
class Pair:
    """Two images of one piece of tissue, `first` < `second`.

    Attributes:
        overlap: the share of the smaller field that both show.
        matches: keypoints that coincide.
        turn, zoom, mirrored: the second is the first, mirrored top to bottom if so, turned by so many degrees, zoomed.
    """

    first: int
    second: int
    overlap: float
    matches: int
    turn: float
    zoom: float
    mirrored: bool


def find_pairs(images: Sequence[Keypoints], progress: Progress, places: I64 | None = None) -> list[Pair]:
    """Pairs of images that show the same tissue, in order of their indices, of any overlap.

    Args:
        images: the N images' keypoints.
        progress: called with every step, how much of it is done, and of how much.
        places: i64[N]; only images of different places are compared.
    """
    apart = np.arange(len(images)) if places is None else places
    candidates = sorted(_candidates(images, apart, progress))
    blocks = [candidates[start : start + BLOCK] for start in range(0, len(candidates), BLOCK)]

    def prove(block: Sequence[tuple[int, int, bool]]) -> list[Pair]:
        return [pair for candidate in block if (pair := align(images, *candidate)) is not None]

    proofs: list[Pair] = []
    with one_thread_each(), ThreadPoolExecutor(WORKERS) as pool:
        for number, pairs in enumerate(pool.map(prove, blocks)):
            proofs += pairs
            progress("pairs compared", number * BLOCK + len(blocks[number]), len(candidates))
    best: dict[tuple[int, int], Pair] = {}
    for pair in proofs:  # symmetric tissue may be proven both as it is and mirrored
        if pair.matches > (best[at].matches if (at := (pair.first, pair.second)) in best else 0):
            best[at] = pair
    return list(best.values())


def linked(count: int, pairs: Sequence[Pair], overlap: float) -> I64:
    """The group of each of `count` images, i64[count], numbered in the order of their first images."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    ends = np.array([(p.first, p.second) for p in pairs if p.overlap >= overlap], np.int64).reshape(-1, 2)
    edges = coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(count, count))
    labels = connected_components(edges, directed=False)[1]
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)


def align(images: Sequence[Keypoints], first: int, second: int, mirrored: bool) -> Pair | None:
    """Lay image `first`, mirrored or not, over image `second`; None unless enough keypoints coincide."""
    import cv2

    a, b = images[first].upside_down() if mirrored else images[first], images[second]
    if min(len(a.places), len(b.places)) < MATCHES:
        return None
    likeness: NDArray[Any] = (_float(a.descriptors) @ _float(b.descriptors).T).numpy() / SCALE**2
    rows = np.arange(len(likeness))
    nearest = likeness.argmax(axis=1)
    top, mutual = likeness[rows, nearest], likeness.max(axis=0)[nearest]
    likeness[rows, nearest] = -1
    # The squared distance of unit vectors is 2 - 2 x likeness.
    good = (top >= mutual) & (1 - top < RATIO**2 * (1 - likeness.max(axis=1)))
    if good.sum() < MATCHES:
        return None
    here, there = a.places[good], b.places[nearest[good]]
    turn, inliers = cv2.estimateAffinePartial2D(
        here, there, method=cv2.RANSAC, ransacReprojThreshold=TOLERANCE, maxIters=500, confidence=0.99
    )
    if turn is None or (matches := int(inliers.sum())) < MATCHES:
        return None
    zoom = float(np.hypot(turn[0, 0], turn[1, 0]))
    if not 1 / ZOOM <= zoom <= ZOOM:
        return None
    outline = (_corners(a) @ turn[:, :2].T + turn[:, 2]).astype(np.float32)
    smaller = min(a.width * a.height * zoom**2, b.width * b.height)
    overlap = min(cv2.intersectConvexConvex(outline, _corners(b))[0] / smaller, 1.0)
    degrees = float(np.degrees(np.arctan2(turn[1, 0], turn[0, 0])))
    return Pair(first, second, overlap, matches, degrees, zoom, mirrored)


def _corners(image: Keypoints) -> F32:
    return np.array([[0, 0], [image.width, 0], [image.width, image.height], [0, image.height]], np.float32)


def _candidates(images: Sequence[Keypoints], places: I64, progress: Progress) -> set[tuple[int, int, bool]]:
    """For every image the likeliest images of other places: first < second, and whether to mirror one of them."""
    if len(images) < 2:
        return set()
    every = np.concatenate([image.descriptors for image in images])
    if not len(every):
        return set()
    words = min(WORDS, -(-len(every) // PER_EXAMPLE))
    examples = every[np.random.default_rng(0).choice(len(every), words, replace=False)]
    both = np.concatenate([every, np.take(every, UPSIDE_DOWN, axis=1)])
    sizes = [len(image.descriptors) for image in images] * 2
    plain, mirrored = _weighted(_word_counts(both, sizes, examples, progress), len(images))
    candidates = set()
    for start in range(0, len(images), BLOCK):
        block = slice(start, start + BLOCK)
        scores = np.hstack([(kind[block] @ plain.T).toarray() for kind in (plain, mirrored)])
        scores[np.tile(places[block, None] == places, 2)] = -1
        likely = np.argsort(-scores, axis=1, kind="stable")[:, :CANDIDATES]
        for row, columns in enumerate(likely):
            for column in columns[scores[row, columns] >= 0]:
                kind, other = divmod(int(column), len(images))
                candidates.add((min(start + row, other), max(start + row, other), bool(kind)))
        progress("images compared by words", min(start + BLOCK, len(images)), len(images))
    return candidates


def _word_counts(descriptors: U8, sizes: Sequence[int], examples: U8, progress: Progress) -> csr_matrix:
    """How often each word occurs among the first sizes[0] descriptors, the next sizes[1], ...: the square root of it,
    so that a repeated texture does not outweigh the rest."""
    from scipy.sparse import csr_matrix

    targets, words = _float(examples), np.empty(len(descriptors), np.int64)
    for start in range(0, len(descriptors), 50_000):
        block = slice(start, start + 50_000)
        figures, word = _float(descriptors[block]), torch.zeros(1, dtype=torch.int64)
        for half in (slice(0, 64), slice(64, 128)):
            centres = targets[:, half]
            nearest = (2 * figures[:, half] @ centres.T - (centres**2).sum(dim=1)).argmax(dim=1)
            word = word * len(examples) + nearest
        words[block] = word.numpy()
        progress("keypoints sorted", min(block.stop, len(words)), len(words))
    owners = np.repeat(np.arange(len(sizes)), sizes)
    ones = np.ones(len(words), np.float32)
    return csr_matrix((ones, (owners, words)), shape=(len(sizes), len(examples) ** 2)).sqrt()


def _weighted(counts: csr_matrix, images: int) -> tuple[csr_matrix, csr_matrix]:
    """Word counts of the images as they are and mirrored, weighted by rarity among the former, rows of length 1."""
    from sklearn.preprocessing import normalize

    holders = np.maximum(counts[:images].getnnz(axis=0), 1)
    rarity = np.log((images + 1) / holders).astype(np.float32)
    rows = normalize(counts.multiply(rarity).tocsr())
    return rows[:images], rows[images:]


def _float(descriptors: U8) -> torch.Tensor:
    return torch.from_numpy(descriptors).float()
