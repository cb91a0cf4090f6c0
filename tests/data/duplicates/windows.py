"""Windows of a tile, and what is found among them."""

import cv2
import numpy as np

SIZE = 112


def silent(step: str, done: int, total: int) -> None:
    assert 0 < done <= total, step


def grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def window(tile: np.ndarray, degrees: float, zoom: float, shift: float = 0, size: int = SIZE) -> np.ndarray:
    """The middle of a tile turned counter-clockwise in the plane of x to the right and y down, zoomed, then shifted."""
    middle, turn = (len(tile) - 1) / 2, np.deg2rad(degrees)
    matrix = zoom * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    offset = (size - 1) / 2 - matrix @ [middle, middle] + [shift, 0]
    return cv2.warpAffine(tile, np.column_stack([matrix, offset]), (size, size), flags=cv2.INTER_LINEAR)


def agreement(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Pairwise precision and recall."""
    upper = np.triu_indices(len(truth), 1)
    ours, theirs = (found[:, None] == found)[upper], (truth[:, None] == truth)[upper]
    return (ours & theirs).sum() / ours.sum(), (ours & theirs).sum() / theirs.sum()
