"""Keypoints of a patch, the same whichever way the tissue is turned, mirrored, stained or (moderately) magnified.

SIFT (Lowe, IJCV 60:91-110, 2004) finds blobs at their own scale and describes each by 4 x 4 histograms of 8 gradient
directions, relative to its own orientation. Descriptors are compared by the Hellinger kernel (RootSIFT; Arandjelović
and Zisserman, CVPR 2012). A mirrored patch has the same blobs and, up to an order of the 128 figures, the same
descriptors, so no patch is read twice. Only luminance is used, stretched to the patch's own range.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from medfl.data.decode import WORKERS
from medfl.data.image_file import BUDGET, PatchReader, failure
from medfl.data.patch_store import U8
from medfl.data.rgb import Unreadable

SIDE = 224  # pixels of the longer side; larger images are reduced to it
POINTS = 300  # the strongest keypoints of an image that are kept
CONTRAST = 0.02  # SIFT's threshold; half its usual one, as pale tissue has little contrast
FAINT = 32  # grey levels: an image with a smaller range is not stretched as if it had this one
SCALE = 512  # descriptors are stored as 8 bits, SCALE x square root of the share; hardly any exceeds 255 / SCALE
F32 = NDArray[np.float32]
Progress = Callable[[str, int, int], None]  # what is done, how many are done, of how many

_BINS = np.arange(128).reshape(4, 4, 8)
UPSIDE_DOWN = _BINS[::-1, :, -np.arange(8) % 8].ravel()  # rows of cells change places, directions their sign


@dataclass(frozen=True)
class Keypoints:
    """What is kept of an image: places f32[n, 2] (x, y), descriptors u8[n, 128], its width and height as searched."""

    places: F32
    descriptors: U8
    width: int
    height: int

    @classmethod
    def none(cls) -> Keypoints:
        """Those of an image in which nothing is seen."""
        return cls(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8), 1, 1)

    def upside_down(self) -> Keypoints:
        """The keypoints of the image mirrored top to bottom."""
        places = self.places * np.array([1, -1], np.float32) + np.array([0, self.height - 1], np.float32)
        return Keypoints(places, np.take(self.descriptors, UPSIDE_DOWN, axis=1), self.width, self.height)


def describe(grey: U8) -> Keypoints:
    """The keypoints of a grey image u8[H, W], the strongest POINTS of them; none where nothing is seen."""
    import cv2

    height, width = grey.shape
    if max(height, width) > SIDE:
        width, height = (max(1, round(length * SIDE / max(grey.shape))) for length in (width, height))
        grey = np.asarray(cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    dark, bright = np.percentile(grey, (1, 99))
    levels = (grey - dark) * (255 / max(bright - dark, FAINT))
    sift = cv2.SIFT.create(nfeatures=POINTS, contrastThreshold=CONTRAST, enable_precise_upscale=True)
    points, raw = sift.detectAndCompute(levels.clip(0, 255).astype(np.uint8), None)
    places = np.array([point.pt for point in points[:POINTS]], np.float32).reshape(-1, 2)
    histograms = np.zeros((0, 128), np.float32) if raw is None else np.asarray(raw, np.float32)[:POINTS]
    shares = histograms / np.maximum(histograms.sum(axis=1, keepdims=True), 1)
    return Keypoints(places, np.minimum(SCALE * np.sqrt(shares), 255).astype(np.uint8), width, height)


def describe_patches(readers: Sequence[PatchReader], progress: Progress) -> list[Keypoints | Unreadable]:
    """The keypoints of patches in their order, or why there are none."""

    def describe_one(read: PatchReader) -> Keypoints | Unreadable:
        try:
            with BUDGET.patch():
                return describe(np.asarray(Image.fromarray(read()).convert("L")))
        except Exception as error:  # a damaged patch may raise anything
            return failure(error)

    keypoints: list[Keypoints | Unreadable] = []
    with one_thread_each(), ThreadPoolExecutor(WORKERS) as pool:
        for result in pool.map(describe_one, readers):
            keypoints.append(result)
            progress("images read", len(keypoints), len(readers))
    return keypoints


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """Let OpenCV and PyTorch use one thread a call: calls side by side use the cores better."""
    import cv2

    threads = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads[0])
        torch.set_num_threads(threads[1])
