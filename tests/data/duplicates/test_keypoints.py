"""Keypoints of a patch."""

import cv2
import numpy as np

from medfl.data.duplicates.keypoints import describe
from medfl.data.synthetic.tissue import draw_tile
from tests.data.duplicates.windows import SIZE, grey, window


def test_upside_down_is_what_the_mirrored_image_would_give(tile):
    image = grey(window(tile, 20, 1))
    turned, seen = describe(image).upside_down(), describe(np.ascontiguousarray(image[::-1]))
    near = np.abs(turned.places[:, None] - seen.places).max(axis=-1) < 0.2
    unlike = np.full(near.shape, 255)  # one place may have several keypoints, of different directions
    ours, theirs = near.nonzero()
    unlike[near] = np.abs(turned.descriptors[ours].astype(int) - seen.descriptors[theirs]).max(axis=-1)
    assert np.mean(unlike.min(axis=1) <= 12) > 0.8


def test_large_images_are_reduced_and_keep_their_shape():
    image = cv2.resize(grey(draw_tile("lung_n", 0, 0, SIZE)), (600, 300))
    seen = describe(image)
    assert (seen.width, seen.height) == (224, 112)
    assert 8 <= len(seen.places) <= 300
    assert seen.places.max(axis=0).tolist() <= [224, 112]
