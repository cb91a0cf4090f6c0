"""Which slides a report shows. What it shows of them stands in test_predict_slides."""

import numpy as np

from medfl.metrics.units import NO_CLASS
from medfl.pipeline.slide_gallery import SlideScores


def test_the_surest_errors_come_first_and_of_a_patient_one():
    probs = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4], [0.5, 0.5]])
    labels, groups = np.array([0, 0, 0, 1, 1, NO_CLASS]), np.array([0, 1, 2, 3, 3, 4])
    own = SlideScores(list("abcdef"), probs, labels, groups)
    assert own.telling(9)[:3] == [2, 3, 1]
    assert sorted(own.telling(9)) == [0, 1, 2, 3, 5]
    assert own.telling(2) == [2, 3]
