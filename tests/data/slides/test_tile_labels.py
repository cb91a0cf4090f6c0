"""A tile has the class that covers most of it."""

from medfl.data.slides.slide_tiling import SlideTiling
from medfl.data.slides.tile_labels import contradiction, tile_labels


def tiling(
    words: list[str], shares: list[list[float]], overlaps: list[tuple[str, str, float]] | None = None
) -> SlideTiling:
    zeros = [0] * len(shares)
    return SlideTiling(1.0, 32.0, zeros, zeros, words, shares, overlaps or [], 0.0, [])


def test_more_than_half_is_needed() -> None:
    shares = [[0.6, 0.4], [0.5, 0.5], [0.1, 0.8], [0.0, 0.0], [0.51, 0.0]]
    assert tile_labels(tiling(["a", "b"], shares), {"a": 0, "b": 1}) == ["a", "", "b", "", "a"]


def test_words_of_one_class_count_together_and_the_larger_one_is_named() -> None:
    shares = [[0.3, 0.35, 0.2], [0.35, 0.3, 0.0], [0.1, 0.1, 0.7]]
    assert tile_labels(tiling(["a", "b", "c"], shares), {"a": 0, "b": 0, "c": 1}) == ["b", "a", "c"]


def test_a_word_that_is_left_out_may_cover_a_tile_too() -> None:
    assert tile_labels(tiling(["a", "b"], [[0.2, 0.7]]), {"a": 0, "b": None}) == ["b"]
    assert tile_labels(tiling(["a"], []), {"a": 0}) == []


def test_two_classes_over_each_other_contradict() -> None:
    crossing = tiling(["a", "b"], [], [("a", "b", 0.3)])
    assert "30% of the regions of a or of b lie under" in contradiction(crossing, {"a": 0, "b": 1})
    assert not contradiction(crossing, {"a": 0, "b": 0})
    assert contradiction(crossing, {"a": 0, "b": None})
    assert not contradiction(tiling(["a", "b"], [], [("a", "b", 0.03)]), {"a": 0, "b": 1})
