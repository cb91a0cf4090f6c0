"""What medfl measures: pure functions on arrays, mergeable sums, and stability over the rounds.

This room imports numpy and the standard library only. Definitions: docs/metrics.md.
"""

from medfl.metrics.auroc import auroc_per_class, supported
from medfl.metrics.calibration import CalibrationBins, ScoreSums, group_sums, score_sums
from medfl.metrics.intervals import Intervals, cluster_bootstrap
from medfl.metrics.measure import format_interval, mean_supported, measure
from medfl.metrics.stability import Stability, round_stability

__all__ = [
    "CalibrationBins",
    "Intervals",
    "ScoreSums",
    "Stability",
    "auroc_per_class",
    "cluster_bootstrap",
    "format_interval",
    "group_sums",
    "mean_supported",
    "measure",
    "round_stability",
    "score_sums",
    "supported",
]
