"""What medfl measures: pure functions on arrays, mergeable sums, and stability over the rounds.

This room imports numpy and the standard library only. Definitions: docs/metrics.md.
"""

from medfl.metrics.auroc import auroc_per_class, supported
from medfl.metrics.calibration import CalibrationBins, ScoreSums, group_sums, score_sums
from medfl.metrics.delong import AurocVariance, clustered_delong
from medfl.metrics.formatting import format_bounds, format_figure, format_interval, format_mean
from medfl.metrics.histograms import EDGES, ScoreHistograms, score_histograms
from medfl.metrics.intervals import Intervals, site_intervals
from medfl.metrics.measure import mean_supported, measure
from medfl.metrics.membership import losses, membership
from medfl.metrics.operating import RATES, operating_point
from medfl.metrics.roc import roc_band
from medfl.metrics.site_figures import SiteMeasurement, pooled, site_figures
from medfl.metrics.stability import Stability, round_stability
from medfl.metrics.targets import target_scores, target_truth, targets
from medfl.metrics.temperature import TemperatureFit, TemperatureSums, fit_temperature, temperature_sums

__all__ = [
    "EDGES",
    "RATES",
    "AurocVariance",
    "CalibrationBins",
    "Intervals",
    "ScoreHistograms",
    "ScoreSums",
    "SiteMeasurement",
    "Stability",
    "TemperatureFit",
    "TemperatureSums",
    "auroc_per_class",
    "clustered_delong",
    "fit_temperature",
    "format_bounds",
    "format_figure",
    "format_interval",
    "format_mean",
    "group_sums",
    "losses",
    "mean_supported",
    "measure",
    "membership",
    "operating_point",
    "pooled",
    "roc_band",
    "round_stability",
    "score_histograms",
    "score_sums",
    "site_figures",
    "site_intervals",
    "supported",
    "target_scores",
    "target_truth",
    "targets",
    "temperature_sums",
]
