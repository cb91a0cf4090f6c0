"""How many source groups stand behind the figures of a site, class by class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medfl.metrics.auroc import IndexArray, IntArray

FEW_GROUPS = 10
"""Below this many groups (in all, or on either side of a supported class) tables say "too few groups"."""


@dataclass(frozen=True)
class GroupSupport:
    """How many source groups stand behind each class.

    Attributes:
        n_groups: groups in all.
        positive: int [C], groups with at least one patch of the class.
        negative: int [C], groups with at least one patch of another class.
    """

    n_groups: int
    positive: IndexArray
    negative: IndexArray

    def few(self) -> bool:
        """Whether any interval rests on fewer than FEW_GROUPS groups (only supported classes are asked)."""
        smaller = np.minimum(self.positive, self.negative)
        return self.n_groups < FEW_GROUPS or bool((smaller[smaller > 0] < FEW_GROUPS).any())

    def pairs(self) -> IndexArray:
        """int [C]: how many pairs (group with positives, other group with negatives) there are."""
        both = self.positive + self.negative - self.n_groups
        return np.asarray(self.positive * self.negative - both)


def group_support(labels: IntArray, group: IndexArray, n_groups: int, n_classes: int) -> GroupSupport:
    """Count the groups behind each class; `group [N]` holds 0 to n_groups - 1."""
    cell = np.bincount(group * n_classes + labels, minlength=n_groups * n_classes)
    table = cell.reshape(n_groups, n_classes)
    others = table.sum(axis=1, keepdims=True) - table
    return GroupSupport(n_groups, (table > 0).sum(axis=0), (others > 0).sum(axis=0))
