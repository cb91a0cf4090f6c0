"""The table of figures: a new figure of a site is one function and one row."""

from __future__ import annotations

import numpy as np
import pytest

from medfl import config
from medfl.cli.console_tables import print_sites
from medfl.cli.terminal import Terminal
from medfl.metrics import Intervals, figures, measure
from medfl.metrics.figures import FIGURES, Place, ScoredPatches, SiteFigure, Style, figure, figures_at
from medfl.metrics.group_figures import group_figures
from medfl.report.run_report import report_html
from medfl.runs import gates
from medfl.study.study_tables import site_rows
from medfl.tracking import metric_names
from medfl.tracking.model_card import model_card
from tests.runfolders import FakeRun

CLASSES = ["adeno", "normal", "squamous"]


def lowest_recall(patches: ScoredPatches) -> float:
    return float(np.nanmin(patches.sums.recall()))


NEW = SiteFigure(
    "lowest_recall",
    "lowest recall",
    lowest_recall,
    "higher",
    (0.0, 1.0),
    grouped=True,
    guess=lambda classes: 1 / classes,
    shown=dict.fromkeys(
        (Place.CONSOLE, Place.REPORT, Place.HEAT_MAP, Place.CARD, Place.POOLED, Place.STUDY_SITES), Style.VALUE
    ),
)


def scores(seed: int = 0, n: int = 90) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    return rng.dirichlet(np.ones(3), size=n) * 0.6 + 0.4 * np.eye(3)[labels], labels, np.arange(n) % 30


def test_a_row_is_enough_for_every_table(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(figures, "FIGURES", (*FIGURES, NEW))
    measured = measure(*scores(), CLASSES, resamples=20)
    recall = np.diag(measured["confusion"]) / np.sum(measured["confusion"], axis=1)
    assert measured["lowest_recall"] == pytest.approx(recall.min())
    assert "lowest_recall_ci" not in measured

    run = FakeRun(tmp_path / "run").whole()
    summary = run.summary()
    value = summary["sites"]["east"]["lowest_recall"]
    shown = f"{value:.3f}"

    assert metric_names.site_final(summary["sites"]["east"], None)["test/lowest_recall"] == value
    assert "curves/val_lowest_recall" in metric_names.federation_round(run.records[0])
    print_sites(Terminal(), summary["sites"])
    table = capsys.readouterr().out
    assert "lowest recall" in table
    assert shown in table
    page = report_html(run.folder)
    assert page.count("lowest recall") >= 2  # the table and the heat map
    assert shown in page
    card = model_card(summary, {"size": 32, "backbone": "b", "classes": CLASSES}, run.pipeline())
    assert "| lowest recall |" in card
    assert site_rows(summary)[0]["lowest_recall"] == f"{value:.9g}"
    over = group_figures(summary["sites"], "held_out")
    held_out = [summary["sites"][name]["lowest_recall"] for name in ("east", "west")]
    assert over["mean_lowest_recall"] == pytest.approx(np.mean(held_out))
    assert over["worst_lowest_recall"] == min(held_out)


def test_without_the_row_nothing_of_it_is_left():
    assert "lowest_recall" not in measure(*scores(), CLASSES)


def test_rows_are_sound():
    assert len({row.key for row in FIGURES}) == len(FIGURES)
    measured = measure(*scores(), CLASSES, resamples=20)
    intervals = {name for name in Intervals.__dataclass_fields__ if name != "auroc_per_class"}
    intervals -= {"auroc_se", "auroc_df", "auroc_least"}
    assert {row.key for row in FIGURES if row.interval is not None} == intervals
    for row in FIGURES:
        low, high = row.bounds
        assert low <= measured[row.key] <= high
        assert row.best == (high if row.direction == "higher" else low)
        if row.guess is not None:
            assert row.depth(row.best, 3) == 0.0
            assert row.depth(row.guess(3), 3) == 1.0
            assert row.depth(None, 3) is None
        if Style.CHANGE in row.shown.values():
            assert row.before is Style.INTERVAL
        if Style.INTERVAL in row.shown.values():
            assert row.interval is not None


def test_heat_maps_show_what_guessing_would_give():
    assert all(row.guess is not None for row in figures_at(Place.HEAT_MAP))


def test_the_worst_follows_the_direction():
    assert figure("auroc").worst([0.9, 0.8]) == 0.8
    assert figure("ece").worst([0.1, 0.2]) == 0.2
    assert figure("ece").worst([]) is None


def test_gates_are_keys_of_a_pipeline_and_rows_of_the_table():
    assert {gate.key for gate in gates.GATES} == set(config.Gates.model_fields)
    for gate in gates.GATES:
        assert gate.key.endswith("_min" if figure(gate.figure).direction == "higher" else "_max")
