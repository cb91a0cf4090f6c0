"""What logits go through: read from what any version wrote, refused where it is none, applied."""

import numpy as np
import pytest

from medfl.metrics.logit_calibration import Calibration

LOGITS = np.array([[1.0, -2.0, 0.5], [3.0, 0.0, 0.0]])


def test_the_default_changes_nothing_and_a_temperature_divides():
    assert Calibration().apply(LOGITS).tolist() == LOGITS.tolist()
    assert Calibration(1.7).apply(LOGITS).tolist() == (LOGITS / 1.7).tolist()


def test_every_class_has_a_factor_and_a_constant():
    own = Calibration(scale=(1.0, 2.0, 0.5), bias=(0.0, -1.0, 3.0))
    assert own.apply(LOGITS).tolist() == [[1.0, -5.0, 3.25], [3.0, -1.0, 3.0]]
    with pytest.raises(ValueError, match="3 scales and 2 classes"):
        own.apply(LOGITS[:, :2])


@pytest.mark.parametrize(
    ("facts", "wanted"),
    [
        ({"temperature": 1.7}, Calibration(1.7)),  # a model.json of version 0.1, calibrated or not
        ({"temperature": None}, Calibration()),
        ({}, Calibration()),
        ({"temperature": 1.7, "calibration": {"temperature": 1.7, "patches": 9}}, Calibration(1.7)),  # a summary
        (
            {"temperature": None, "calibration": {"scale": [1, 2], "bias": [0, -1], "patches": 9}},
            Calibration(1.0, (1.0, 2.0), (0.0, -1.0)),
        ),
    ],
)
def test_it_is_read_from_a_models_facts_and_a_summary(facts, wanted):
    own = Calibration.of(facts)
    assert own == wanted
    assert Calibration.of({"temperature": own.temperature, "calibration": own.vector}) == own


@pytest.mark.parametrize(
    "facts",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"calibration": {"scale": [1.0]}},
        {"calibration": {"scale": [1.0, 0.0], "bias": [0.0, 0.0]}},
        {"calibration": {"scale": [1.0, 1.0], "bias": [0.0, float("inf")]}},
        {"calibration": {"scale": [[1.0]], "bias": [0.0]}},
        {"calibration": {"scale": 3, "bias": [0.0]}},
    ],
)
def test_what_is_none_is_refused(facts):
    with pytest.raises(ValueError, match=r"scales|numbers"):
        Calibration.of(facts)
