"""A calibration in words: what was fitted, how patches counted, what to keep in mind."""

import pytest

from medfl.metrics.fit_words import fit_cautions, fit_means, fit_name, fit_ways

TEMPERATURE = {"temperature": 1.25, "groups": 30, "pulled": True, "bound": None}
VECTOR = {"method": "vector", "scale": [0.5, 1.5], "bias": [-0.2, 0.2], "groups": 90, "pulled": True, "bound": None}
VECTOR["towards"] = 1.5


@pytest.mark.parametrize(
    ("fit", "name", "means"),
    [
        (TEMPERATURE, "Temperature 1.250", "logits are divided by it"),
        (VECTOR, "Vector scaling, factors 0.500 to 1.500 and constants -0.200 to 0.200 by class", "times its factor"),
        ({"method": "vector", "bound": "lower"}, "Vector scaling, which changes nothing", "times its factor"),
    ],
)
def test_what_was_fitted(fit, name, means):
    assert fit_name(fit) == name
    assert means in fit_means(fit)


def test_how_patches_counted_and_were_seen():
    assert fit_ways(TEMPERATURE) == ""
    seen = {"weights": "sites", "laboratories": 3, "stain_strength": 0.5}
    assert fit_ways(seen) == ", every site counting the same, seen through 3 random laboratories each (strength 0.5)"
    assert "seen through a random laboratory (" in fit_ways(seen | {"laboratories": 1})


def test_what_to_keep_in_mind():
    assert fit_cautions(TEMPERATURE) == ["pulled towards 1, since 30 source groups are fewer than 50"]
    assert fit_cautions(VECTOR) == [
        "pulled towards the temperature 1.500 for all, since 90 source groups are fewer than 50 for every class"
    ]
    assert fit_cautions(TEMPERATURE | {"pulled": False}) == []
    assert "separates" in fit_cautions(VECTOR | {"pulled": False, "bound": "lower"})[0]
    assert "no better than chance" in fit_cautions(TEMPERATURE | {"bound": "upper"})[1]
