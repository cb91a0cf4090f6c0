"""Endpoints: what may be asked, and which word an answer gets."""

import math

import pytest

from medfl.errors import MedflError
from medfl.study.endpoints import Endpoint, word
from medfl.study.inference import Estimate
from medfl.study.study_file import load_study
from tests.tiny import write_tiny

AUROC = Endpoint(figure="held_out_mean_auroc", test="equivalence", margin=0.005)
STEADY = Endpoint(figure="trend_free_oscillation", scale="log", margin=1.25)
DIFFERENCE = Endpoint(figure="held_out_mean_auroc", margin=0.005)


def told(endpoint, mean, error, n=100, factor=1):
    """The word of a mean with its standard error, its p multiplied by the adjustment for a family."""
    estimate = Estimate(n, mean, error)
    return word(endpoint, estimate, min(1.0, factor * endpoint.p(estimate)))


def test_every_word_of_a_test_of_equivalence():
    assert told(AUROC, 0.001, 0.0001) == ("equivalent", True)  # and above zero, by less than counts
    assert told(AUROC, 0.02, 0.002) == ("better", False)
    assert told(AUROC, -0.02, 0.002) == ("worse", False)
    assert told(AUROC, 0.004, 0.0025) == ("no worse", False)  # from -.0002 to .0082 with 90 %
    assert told(AUROC, -0.004, 0.003) == ("undecided", False)


def test_every_word_of_a_test_of_a_difference():
    assert told(DIFFERENCE, 0.001, 0.0001) == ("better", True)
    assert told(DIFFERENCE, 0.0001, 0.001) == ("equivalent", False)
    assert told(DIFFERENCE, 0.004, 0.0025) == ("no worse", False)
    assert told(DIFFERENCE, 0.0, 0.1) == ("undecided", False)


def test_less_is_better_where_the_figure_says_so():
    assert told(STEADY, math.log(0.8), 0.02) == ("better", True)
    assert told(STEADY, math.log(1.2), 0.02) == ("worse", True)
    assert told(STEADY, math.log(1.02), 0.05) == ("equivalent", False)
    assert told(STEADY, math.log(1.3), 0.15)[0] == "undecided"
    assert told(STEADY, math.log(0.85), 0.15)[0] == "no worse"


def test_an_adjusted_p_counts_and_few_federations_decide_nothing():
    assert told(DIFFERENCE, 0.0021, 0.001) == ("better", True)
    assert told(DIFFERENCE, 0.0021, 0.001, factor=2) == ("equivalent", False)
    assert told(DIFFERENCE, 0.02, 0.001, n=4) == ("undecided", False)
    assert word(DIFFERENCE, None, None) == ("undecided", False)


def test_ratios_on_the_scale_log():
    assert STEADY.moved(0.02, 0.04) == pytest.approx(math.log(0.5))
    assert STEADY.shown(math.log(0.5)) == pytest.approx(0.5)
    assert STEADY.moved(0.0, 0.04) is STEADY.moved(None, 0.04) is None
    assert AUROC.moved(0.9, 0.8) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"endpoints": {"primary": [{"figure": "update_cosine"}]}}, "no figure of which one way is better"),
        ({"endpoints": {"primary": [{"figure": "drift", "test": "equivalence"}]}}, "needs a `margin`"),
        ({"endpoints": {"primary": [{"figure": "drift", "scale": "log", "margin": 0.2}]}}, "a ratio above 1"),
        ({"endpoints": {"primary": [{"figure": "drift"}], "secondary": [{"figure": "drift"}]}}, "stands twice"),
        ({"endpoints": {}}, "no figure is stated"),
        ({"endpoints": {"primary": [{"figure": "drift"}]}, "comparisons": {"secondary": []}}, "no pair is stated"),
        ({"comparisons": {"primary": [["ecgr", "fedavg"]]}}, "state those too"),
        (
            {"endpoints": {"primary": [{"figure": "drift"}]}, "comparisons": {"secondary": [["ecgr", "fedavg"]]}},
            "so that nothing asked is primary",
        ),
        (
            {"endpoints": {"primary": [{"figure": "drift"}]}, "comparisons": {"primary": [["ecgr", "nobody"]]}},
            "which is none of the methods",
        ),
        ({"design": "nowhere.md"}, "to be written before the first run"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence(tmp_path, keys, said):
    write_tiny(tmp_path)
    study = {"name": "s", "pipeline": str(tmp_path / "tiny.yaml"), "seeds": [1], "methods": {"fedavg": [], "ecgr": []}}
    with pytest.raises(MedflError, match=said):
        load_study(study | keys)
