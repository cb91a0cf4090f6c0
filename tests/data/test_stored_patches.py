"""Patches in several files or as JPEGs are read like one array."""

import numpy as np
import pytest

from medfl.data.stored_patches import JpegPatches, PatchFiles, decode_jpeg, encode_jpeg
from medfl.errors import MedflError
from tests.datafiles import pixels

KEYS = [
    0,
    np.int64(6),
    -1,
    slice(None),
    slice(2, 6),
    slice(6, 1, -2),
    np.array([6, 0, 3, 3, -7]),
    np.arange(7) % 2 == 0,
]


def smooth(seed: int) -> np.ndarray:
    """A patch u8[16, 16, 3] that a JPEG can hold."""
    return np.asarray(np.linspace(seed * 9, 255 - seed * 5, 16 * 16 * 3).reshape(16, 16, 3), np.uint8)


@pytest.fixture
def whole() -> np.ndarray:
    return np.stack([smooth(number) for number in range(7)])


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_several_files_are_read_like_one_array(whole, key):
    stored = PatchFiles([whole[:3], whole[3:4], whole[4:]])
    assert np.array_equal(stored[key], whole[key])
    assert (stored.shape, len(stored), stored.nbytes, stored.dtype) == (whole.shape, 7, whole.nbytes, whole.dtype)
    assert np.array_equal(np.asarray(stored), whole)
    assert np.array_equal(list(stored), whole)


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_jpegs_are_read_like_one_array(whole, key):
    coded = [encode_jpeg(patch, 95) for patch in whole]
    files = [np.frombuffer(b"".join(part), np.uint8) for part in (coded[:4], coded[4:])]
    stored = JpegPatches(files, [list(map(len, coded[:4])), list(map(len, coded[4:]))], 16)
    expected = np.stack([decode_jpeg(content) for content in coded])
    assert np.array_equal(stored[key], expected[key])
    assert np.abs(expected.astype(int) - whole).mean() < 2
    assert stored.nbytes == whole.nbytes


def test_colours_keep_their_resolution_in_a_jpeg():
    """Two stains side by side, one pixel wide each, would be one where chroma is halved."""
    patch = np.empty((16, 16, 3), np.uint8)
    patch[:, ::2], patch[:, 1::2] = (180, 60, 140), (90, 120, 200)
    decoded = decode_jpeg(encode_jpeg(patch, 95)).astype(int)
    assert np.abs(decoded - patch).mean() < 6


def test_rows_beyond_the_last_are_an_error(whole):
    for row in (7, -8, np.array([7])):
        with pytest.raises(IndexError):
            PatchFiles([whole])[row]


def test_a_jpeg_that_changed_after_it_was_checked_is_a_sentence():
    for content in (b"", encode_jpeg(pixels(0), 95)[:100]):
        with pytest.raises(MedflError, match=r"cannot be decoded.*medfl cache verify"):
            decode_jpeg(content)
