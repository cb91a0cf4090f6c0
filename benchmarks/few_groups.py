"""What a temperature that was fitted to few source groups does to ECE on new data, with and without the pull to 1.

    python -m benchmarks.few_groups

prints the table of docs/metrics.md (a minute on one core). A network of five classes has normal logits, half of whose
variance is common to a source group of 4 to 8 patches; `scale` multiplies its logits and `skill` is the mean of the
right one.
"""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from medfl.metrics import temperature
from medfl.metrics.calibration import score_sums

NETWORKS = {"over-confident": (1.5, 3.0), "under-confident": (1.5, 1.0), "calibrated": (3.0, 3.0)}
"""(skill, scale)"""
GROUPS = (5, 20)
FITS, NEW_GROUPS, CLASSES = 40, 3000, 5
Array = NDArray[np.float64]
Labels = NDArray[np.int64]


def draw(rng: np.random.Generator, groups: int, skill: float, scale: float) -> tuple[Array, Labels, Labels]:
    """(logits [n, C], labels [n], source groups [n])."""
    sizes, classes = rng.integers(4, 9, groups), rng.integers(0, CLASSES, groups)
    group = np.repeat(np.arange(groups), sizes)
    effects, noise = rng.normal(0, 0.71, (groups, CLASSES)), rng.normal(0, 0.71, (len(group), CLASSES))
    labels = classes[group]
    return scale * (effects[group] + noise + skill * np.eye(CLASSES)[labels]), labels, group


def ece(logits: Array, labels: Labels) -> float:
    """ECE of the softmax of these logits."""
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return float(score_sums(weights / weights.sum(axis=1, keepdims=True), labels).ece())


def after_fits(skill: float, scale: float, groups: int, enough: int) -> list[float]:
    """ECE on new data of one network with each of `FITS` temperatures."""
    new, truth, _ = draw(np.random.default_rng(0), NEW_GROUPS, skill, scale)
    rng, errors = np.random.default_rng(1), []
    with patch.object(temperature, "ENOUGH_GROUPS", enough):
        for _ in range(FITS):
            logits, labels, group = draw(rng, groups, skill, scale)
            fit = temperature.fit_temperature(
                lambda asked, z=logits, y=labels, g=group: temperature.temperature_sums(z, y, asked, g)  # type: ignore[misc]
            )
            errors.append(ece(new / fit.temperature, truth))
    return errors


def main() -> None:
    """Print the table."""
    print("| network at T = 1 | groups | fitted to the data alone | pulled |\n|---|---|---|---|")
    for name, (skill, scale) in NETWORKS.items():
        new, truth, _ = draw(np.random.default_rng(0), NEW_GROUPS, skill, scale)
        for groups in GROUPS:
            cells = []
            for enough in (0, temperature.ENOUGH_GROUPS):
                errors = after_fits(skill, scale, groups, enough)
                cells.append(f"{np.mean(errors):.3f}, {np.quantile(errors, 0.9):.3f}".replace("0.", "."))
            print(
                f"| {name}, ECE {ece(new, truth):.3f} | {groups} | {cells[0]} | {cells[1]} |".replace("ECE 0.", "ECE .")
            )


if __name__ == "__main__":
    main()
