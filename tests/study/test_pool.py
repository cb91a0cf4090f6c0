"""What counts of a federation that is in several strata."""

import pytest

from medfl.study.pool import Pool


def test_strata_count_alike_whatever_they_hold():
    """Federation x: (1 + 3) / 2 in a, 10 in b; y lacks b and is left out."""
    own = {("a", "1"): "x", ("a", "2"): "x", ("b", "1"): "x", ("a", "3"): "y", ("b", "3"): "y"}
    values = {("a", "1"): 1.0, ("a", "2"): 3.0, ("b", "1"): 10.0, ("a", "3"): 5.0, ("b", "3"): None}
    pool = Pool(own, ["a", "b"])
    assert pool.rows(values) == {"x": [2.0, 10.0]}
    assert pool.means(values) == {"x": pytest.approx(6.0)}
    assert Pool(own, ["a"]).means(values) == {"x": 2.0, "y": 5.0}
