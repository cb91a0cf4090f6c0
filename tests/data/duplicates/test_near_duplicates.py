"""Near-copies: found with the transformation that made them, linked into groups, caught where they leak."""

import functools

import numpy as np
import pytest

from medfl.data.catalog import pipeline_catalog
from medfl.data.duplicates.keypoints import Keypoints, describe, describe_patches
from medfl.data.duplicates.near_duplicates import Pair, align, find_pairs, linked
from medfl.data.synthetic.tissue import TISSUE_CLASSES, draw_copies
from tests.data.duplicates.windows import SIZE, agreement, grey, silent, window
from tests.datafiles import needs_lc25000, pipeline, real_lc25000


@pytest.mark.parametrize(
    ("degrees", "zoom", "mirrored"),
    [(0, 1, True), (90, 1, False), (137, 1, True), (-25, 1.4, False), (180, 0.75, True)],
)
def test_a_copy_is_found_with_the_transformation_that_made_it(tile, degrees, zoom, mirrored):
    first = window(tile, 0, 1)
    second = window(tile[::-1] if mirrored else tile, degrees, zoom)
    (pair,) = find_pairs([describe(grey(first)), describe(grey(second))], silent)
    assert (pair.first, pair.second, pair.mirrored) == (0, 1, mirrored)
    assert abs((pair.turn - degrees + 180) % 360 - 180) < 1.5
    assert pair.zoom == pytest.approx(zoom, rel=0.03)
    # Both windows have one centre, and at these turns and zooms the smaller field hardly leaves the larger one,
    # except at 137 degrees: two equal squares turned by 47 share 1 / (1 + tan(21.5 deg)) of the longer half-diagonal.
    turned = np.deg2rad(min(degrees % 90, 90 - degrees % 90))
    shared = 1.0 if zoom != 1 else 2 / (1 + np.sin(turned) + np.cos(turned))
    assert pair.overlap == pytest.approx(shared, abs=0.05)


def test_another_stain_hides_nothing(tile):
    first = window(tile, 0, 1)
    other = (255 * (window(tile, 40, 1.1) / 255.0 * [0.8, 0.95, 1.0]) ** 1.5 * 0.9).astype(np.uint8)
    (pair,) = find_pairs([describe(grey(first)), describe(grey(other))], silent)
    assert pair.overlap > 0.75
    assert pair.turn == pytest.approx(40, abs=1.5)


def test_a_neighbour_shares_what_it_shares(tile):
    images = [describe(grey(window(tile, 0, 1, shift))) for shift in (0, SIZE / 2)]
    (pair,) = find_pairs(images, silent)
    assert pair.overlap == pytest.approx(0.5, abs=0.03)
    assert linked(2, [pair], 0.75).tolist() == [0, 1]
    assert linked(2, [pair], 0.4).tolist() == [0, 0]


def test_unrelated_tissue_is_not_linked_however_it_is_asked(tile):
    images = [
        describe(grey(draw_copies(label, 1, index, SIZE, 1)[0])) for label in TISSUE_CLASSES for index in range(4)
    ]
    for first in range(len(images)):
        for second in range(first):
            for mirrored in (False, True):
                assert align(images, second, first, mirrored) is None


def test_images_in_which_nothing_is_seen_have_no_copies():
    flat = describe(np.full((40, 60), 240, np.uint8))
    noise = describe(np.random.default_rng(0).integers(0, 255, (60, 90), np.uint8))
    assert len(flat.places) == 0
    assert (flat.width, flat.height) == (60, 40)
    assert find_pairs([], silent) == []
    assert find_pairs([noise], silent) == []
    assert find_pairs([flat, flat, Keypoints.none()], silent) == []
    assert [(p.first, p.second) for p in find_pairs([flat, noise, flat, noise], silent)] == [(1, 3)]


def test_groups_are_what_pairs_of_enough_overlap_connect():
    pairs = [Pair(a, b, overlap, 9, 0.0, 1.0, False) for a, b, overlap in [(4, 5, 0.9), (1, 4, 0.8), (0, 3, 0.74)]]
    assert linked(6, pairs, 0.75).tolist() == [0, 1, 2, 3, 1, 1]
    assert linked(6, pairs, 0.7).tolist() == [0, 1, 2, 0, 1, 1]
    assert linked(3, [], 0.5).tolist() == [0, 1, 2]


def test_only_images_of_different_places_are_compared(tile):
    images = [describe(grey(window(tile, degrees, 1))) for degrees in (0, 10, 20, 30)]
    pairs = find_pairs(images, silent, np.array([0, 0, 1, 1]))
    assert {(p.first, p.second) for p in pairs} == {(0, 2), (0, 3), (1, 2), (1, 3)}


@needs_lc25000
def test_real_patches_are_grouped_as_published():
    catalog = pipeline_catalog(pipeline([], root=real_lc25000(), source="lc25000"))
    kept = np.flatnonzero(catalog.groups % 40 == 3)
    readers = [functools.partial(catalog.source.read, catalog.references[row]) for row in kept]
    pairs = find_pairs(describe_patches(readers, silent), silent)
    precision, recall = agreement(linked(len(kept), pairs, 0.75), catalog.groups[kept])
    assert len(kept) > 80
    assert precision >= 0.99
    assert recall >= 0.8
