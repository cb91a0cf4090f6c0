"""How figures are printed."""

from medfl.metrics import format_bounds, format_figure, format_mean
from medfl.metrics.formatting import patch_words


def test_figures_alone():
    assert format_figure(0.94349) == "0.943"
    assert format_figure(None) == "n/a"
    assert format_figure(None, missing="-") == "-"
    assert format_figure(0.5, "+.2f") == "+0.50"
    assert format_figure(7) == "7"


def test_means_and_bounds():
    assert format_mean(0.5, [0.4, 0.6]) == "0.500 [0.400, 0.600]"
    assert format_mean(0.012, None, "+.3f") == "+0.012 [n/a]"
    assert format_mean(None, None) == "n/a"
    assert format_bounds((-0.01, 0.02), "+.3g") == "[-0.01, +0.02]"
    assert format_bounds(None) == "[n/a]"


def test_rows_are_called_by_what_they_are():
    tiles, bags = {"source": "slides"}, {"source": "slides", "model": {"backbone": "mil_abmil"}}
    assert [patch_words(s) for s in (tiles, bags, {"source": "features"}, {})] == [
        "tiles",
        "slides",
        "slides",
        "patches",
    ]
