"""How far a class mix that is corrected by a confusion matrix is from the truth, beside counts of predictions.

uv run python -m benchmarks.prevalence    # prints the table of docs/monitoring.md, about a minute

Drawn: 120 patients of four patches, each patch called by a model of these recalls, which are known from 600 patches.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medfl.metrics.prevalence import PredictedCounts, corrected_prevalence

RECALL = np.array([[0.8, 0.15, 0.05], [0.1, 0.7, 0.2], [0.02, 0.08, 0.9]])
MIXES = ((1 / 3, 1 / 3, 1 / 3), (0.2, 0.5, 0.3), (0.1, 0.2, 0.7), (0.02, 0.08, 0.9), (0.6, 0.3, 0.1))
PATIENTS, PATCHES, KNOWN, DRAWS = 120, 4, 200, 120


def measured(mix: NDArray[np.float64], random: np.random.Generator) -> tuple[float, float, float, float]:
    """Mean error (summed over classes) corrected and raw, how often the first is smaller, coverage of the intervals."""
    errors, inside = [], []
    for _ in range(DRAWS):
        labels = np.repeat(random.choice(3, PATIENTS, p=mix), PATCHES)
        called = np.array([random.choice(3, p=RECALL[label]) for label in labels])
        known = np.repeat(np.arange(3), KNOWN)
        named = np.array([random.choice(3, p=RECALL[label]) for label in known])
        confusion = np.bincount(3 * known + named, minlength=9).reshape(3, 3).astype(float)
        counts = PredictedCounts.of(called, np.repeat(np.arange(PATIENTS), PATCHES), 3)
        corrected = corrected_prevalence(counts, confusion, np.full(3, KNOWN / PATCHES))
        assert corrected is not None
        point, low, high = corrected
        errors.append([np.abs(point - mix).sum(), np.abs(counts.shares - mix).sum()])
        inside.append(((low <= mix) & (mix <= high)).mean())
    both = np.array(errors)
    corrected_error, raw_error = map(float, both.mean(axis=0))
    return corrected_error, raw_error, float((both[:, 0] < both[:, 1]).mean()), float(np.mean(inside))


def main() -> None:
    """Print the table."""
    random = np.random.default_rng(11)
    print("| mix | error, corrected | error, counts | corrected is nearer | coverage of the 95 % intervals |")
    print("|---|---|---|---|---|")
    for mix in MIXES:
        corrected, raw, nearer, inside = measured(np.array(mix), random)
        shares = ", ".join(f"{share:.2f}" for share in mix)
        print(f"| {shares} | {corrected:.3f} | {raw:.3f} | {nearer:.0%} | {inside:.1%} |")


if __name__ == "__main__":
    main()
