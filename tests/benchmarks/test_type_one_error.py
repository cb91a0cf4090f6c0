"""The tests of a study err as often as they say: a small simulation here, and the committed one."""

import numpy as np
import pytest

from benchmarks import type_one_error
from benchmarks.type_one_error import COMMITTED, FEDERATIONS, POOLED, Row, errors, estimates, gains, power, read, table
from medfl.study.inference import Estimate
from tests.paths import ROOT


@pytest.fixture(scope="module")
def committed() -> list[Row]:
    return read(COMMITTED)


def test_a_small_simulation_holds_the_level() -> None:
    """250 studies of 10 federations: a standard error of 1.4 points at 5 %."""
    rows = {(row.part, row.counted): row.rate for row in errors(250, 7, (10,)) if row.shape == "normal"}
    for (part, counted), rate in rows.items():
        if POOLED in counted:
            assert 0.15 < rate < 0.85
        elif part == "tests":
            assert 0.01 <= rate <= 0.1, counted
        else:
            promised = 0.9 if counted.startswith("90") else 0.95
            assert abs(rate - promised) <= 0.05, counted


def test_estimates_at_once_are_those_one_by_one() -> None:
    values = np.random.default_rng(0).normal(size=(3, 7))
    for one, other in zip(estimates(values), (Estimate.of(row.tolist()) for row in values), strict=True):
        assert (one.n, one.mean, one.error) == pytest.approx((other.n, other.mean, other.error))


@pytest.mark.parametrize("shape", type_one_error.SHAPES)
def test_gains_have_the_spread_and_the_correlation_asked_for(shape: str) -> None:
    correlation = np.array([[1, 0.93], [0.93, 1]])
    (rows,) = gains(np.random.default_rng(1), shape, (1, 40_000), np.array([1.0, 3.0]), correlation)
    assert rows.std(axis=0) == pytest.approx([1.0, 3.0], rel=0.05)
    assert np.corrcoef(rows.T)[0, 1] == pytest.approx(0.93, abs=0.02)


def test_power_grows_with_the_number_of_federations() -> None:
    pair = (np.full(3, 0.01), np.full(3, 0.3))
    rates = [row.rate for row in power(60, 1, {"x": pair}) if "equivalent" in row.counted]
    assert rates[0] < 0.5 < rates[-1] == 1.0


def test_the_committed_simulation_holds_what_is_required(committed: list[Row]) -> None:
    """At the observed correlations every test errs in 3 to 7 of 100 studies, and 93 to 97 intervals hold the truth."""
    assert min(row.repeats for row in committed) >= 2000
    ours = [row for row in committed if row.shape == "normal" and POOLED not in row.counted]
    assert {row.federations for row in ours} == set(FEDERATIONS)
    for row in ours:
        if row.part == "tests":
            assert 0.03 <= row.rate <= 0.07, row
        elif row.counted.startswith("95"):
            assert 0.93 <= row.rate <= 0.97, row
        elif row.part == "intervals":
            assert 0.88 <= row.rate <= 0.92, row
    before = [row.rate for row in committed if row.part == "tests" and POOLED in row.counted]
    assert min(before) > 0.2


def test_the_documents_quote_it(committed: list[Row]) -> None:
    studies = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    for part in ("tests", "intervals"):
        assert table(committed, part) in studies
    assert table(committed, "power") in (ROOT / "docs" / "study-design.md").read_text(encoding="utf-8")
