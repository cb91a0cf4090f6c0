"""What the intervals cover: a small simulation here, and the committed one that docs/metrics.md quotes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import coverage
from benchmarks.coverage import two_classes
from benchmarks.coverage_results import OURS, TABLES, Row, read, table, write
from medfl.metrics import measure
from tests.paths import ROOT

COMMITTED = ROOT / "docs" / "results" / "coverage.csv"


def test_groups_are_what_makes_auroc_ci_cover() -> None:
    """40 groups of 6 to 8 patches per class, correlation .5, 250 repeats: a standard error of 1.4 to 3 points."""
    rng = np.random.default_rng(20)
    held = {"groups": 0, "patches": 0}
    for _ in range(250):
        score, labels, group = two_classes(rng, 40, 0.8)
        p = 1 / (1 + np.exp(-score))
        for kind, unit in (("groups", group), ("patches", np.arange(len(group)))):
            low, high = measure(np.stack([1 - p, p], axis=1), labels, unit, ["a", "b"], resamples=1)["auroc_ci"]
            held[kind] += low <= 0.8 <= high
    assert 0.91 <= held["groups"] / 250 <= 0.99
    assert held["patches"] / 250 < 0.80


def test_a_calibrated_model_is_not_called_miscalibrated() -> None:
    """Its true calibration error is 0: the percentiles never reach it, the interval does."""
    rows = coverage.calibration_rows(40, 8, "calibrated", dict.fromkeys(coverage.FIGURES, 0.0), 100, 100, seed=1)
    share = {(row.figure, row.method): row.coverage for row in rows}
    for figure in ("ece", "classwise_ece"):
        assert share[figure, OURS] > 0.9
        assert share[figure, "percentiles"] < 0.05


def test_rates_cover_with_groups_and_not_without() -> None:
    rows = coverage.operating_rows(40, 0.8, 150, 60, seed=1)
    share = {(row.figure, row.method): row.coverage for row in rows}
    assert share["sensitivity", OURS] > 0.89
    assert share["sensitivity", "patches"] < 0.85


def test_simulated_data_are_as_described() -> None:
    rng = np.random.default_rng(0)
    noise = coverage.noise(rng, np.full(20_000, 2), 1)[:, 0].reshape(-1, 2)
    assert noise.var() == pytest.approx(1.0, abs=0.03)
    assert np.corrcoef(noise.T)[0, 1] == pytest.approx(0.5, abs=0.02)
    score, labels, _ = two_classes(rng, 3000, 0.95)
    assert measure_auroc(score, labels) == pytest.approx(0.95, abs=0.01)
    scores, labels, _ = coverage.five_classes(rng, 2000, 0.8)
    assert measure_auroc(scores[:, 2], labels == 2) == pytest.approx(0.8, abs=0.015)
    figures = coverage.true_figures("overconfident", patches=100_000)
    assert figures["ece"] > 0.1
    assert coverage.true_figures("calibrated", patches=100_000)["ece"] == 0.0


def measure_auroc(score: np.ndarray, positive: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, score))


def test_files_are_the_same_twice_and_read_back(tmp_path: Path) -> None:
    for name in ("once", "twice"):
        rows = list(coverage.auroc_rows(15, 0.8, 3, 10, seed=5))
        write(rows, tmp_path / f"{name}.csv")
    assert (tmp_path / "once.csv").read_bytes() == (tmp_path / "twice.csv").read_bytes()
    back = read(tmp_path / "once.csv")
    assert [(row.figure, row.setting, row.groups, row.method) for row in back] == [
        (row.figure, row.setting, row.groups, row.method) for row in rows
    ]
    assert [row.coverage for row in back] == pytest.approx([row.coverage for row in rows], rel=1e-4)


@pytest.fixture(scope="module")
def committed() -> list[Row]:
    return read(COMMITTED)


def test_the_committed_simulation_holds_what_is_required(committed: list[Row]) -> None:
    """93 to 97 % from 40 groups per class on, at least 2,000 repeats a cell, and far less without the groups."""
    assert min(row.repeats for row in committed) >= 2000
    ours = {(row.figure, row.setting, row.groups): row.coverage for row in committed if row.method == OURS}
    for figure in ("auroc", "mean auroc"):
        for setting in ("AUROC 0.80", "AUROC 0.95"):
            assert {groups for f, s, groups in ours if (f, s) == (figure, setting)} >= {15, 40, 100}
            for groups in (40, 100):
                assert 0.93 <= ours[figure, setting, groups] <= 0.97
    ignored = [row.coverage for row in committed if row.figure == "auroc" and row.method.startswith("patches")]
    assert max(ignored) < 0.8


def test_the_documents_quote_it(committed: list[Row]) -> None:
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    for columns in TABLES:
        assert table(committed, columns) in text
