"""Source groups behind the classes: pairs, and how few are too few."""

from __future__ import annotations

import numpy as np
import pytest

from medfl.metrics.group_support import group_support


def test_a_group_with_both_sides_makes_no_pair_with_itself() -> None:
    group = np.repeat(np.arange(6), 2)
    labels = np.tile([0, 1], 6)
    support = group_support(labels, group, 6, 3)
    assert support.positive.tolist() == [6, 6, 0]
    assert support.negative.tolist() == [6, 6, 6]
    assert support.pairs().tolist() == [30, 30, 0]


@pytest.mark.parametrize(
    ("labels", "few"),
    [
        ([0] * 10 + [1] * 10, False),  # ten groups on both sides
        ([0] * 11 + [1] * 9, True),  # nine of class 1
        ([0] * 20, False),  # no class supported: only the total counts
    ],
)
def test_few_groups(labels: list[int], few: bool) -> None:
    assert group_support(np.array(labels), np.arange(20), 20, 2).few() is few
    assert group_support(np.array(labels[:9]), np.arange(9), 9, 2).few() is True
