"""Stability over the rounds against a hand-computed federation of two sites and three parameters."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from medfl.metrics import Stability, round_stability

SHARES = {"a": 0.25, "b": 0.75}
UPDATES = [
    {"a": [4, 0, 0], "b": [0, 4, 0]},
    {"a": [2, 2, 0], "b": [2, 2, 0]},
    {"a": [0, 0, 8], "b": [0, 4, 0]},
]
AUROC = [{"a": 0.5, "b": 0.7}, {"a": 0.7, "b": 0.9}, {"a": 0.6, "b": 0.9}, {"a": 0.9, "b": 0.95}]


def record(t: int, auroc: dict[str, float | None], update: dict[str, Any] | None = None) -> dict[str, Any]:
    sites = {name: {"role": "train", "val": {"auroc": value}} for name, value in auroc.items()}
    return {"round": t, "evaluated": True, "sites": sites, "update": update}


def federation() -> list[dict[str, Any]]:
    """The records of three rounds, made from the actual vectors; weights start at (4, 3, 4)."""
    weights, before = np.array([4.0, 3.0, 4.0]), None
    records = []
    for t, by_site in enumerate(UPDATES):
        steps = {name: np.array(step, dtype=float) for name, step in by_site.items()}
        step = sum(SHARES[name] * steps[name] for name in steps)
        update = {
            "mean_sq": sum(SHARES[name] * steps[name] @ steps[name] for name in steps),
            "sq": step @ step,
            "cosine": None if before is None else step @ before / np.linalg.norm(step) / np.linalg.norm(before),
            "inertia": {
                "stem": np.linalg.norm(step[:1]) / np.linalg.norm(weights[:1]),
                "head": np.linalg.norm(step[1:]) / np.linalg.norm(weights[1:]),
            },
        }
        records.append(record(t, AUROC[t], update))
        weights, before = weights - step, step
    records.append(record(3, AUROC[3]))
    return records


def replay(records: list[dict[str, Any]], **options: Any) -> Stability:
    stability = Stability(**options)
    for entry in records:
        stability.update(entry)
    return stability


def test_three_rounds_by_hand() -> None:
    """Shares p = (1/4, 3/4).

    round 0: D = (1, 3, 0), ||D||^2 = 10, sum p ||D_i||^2 = 16/4 + 3*16/4 = 16; drift^2 = 6/10, coherence 10/16.
    round 1: both (2, 2, 0): 8 and 8; drift 0, coherence 1; cosine (2 + 6) / sqrt(80) = 8 / sqrt(80).
    round 2: D = (0, 3, 2), 13; 64/4 + 3*16/4 = 28; drift^2 = 15/13, coherence 13/28; cosine 6 / sqrt(8 * 13).
    accumulated variance (6 + 0 + 15) / (10 + 8 + 13) = 21/31.
    weights (4,3,4) -> (3,0,4) -> (1,-2,4): round 2 moves the stem by 0/1, the head by sqrt(13)/sqrt(20).
    a_t = .6, .8, .75, .925: differences .2, -.05, .175; oscillation .425/3, largest drop .05; site a drops
    .7 -> .6, site b never (.9 -> .9: largest drop 0). Second differences
    -.25 and .225: trend-free .475/4. Round 3: .9 and .95, spread .025, worst a.
    """
    summary = replay(federation()).summary()
    assert summary == {
        "oscillation": pytest.approx(0.425 / 3),
        "trend_free_oscillation": pytest.approx(0.475 / 4),
        "largest_drop": pytest.approx(0.05),
        "largest_drop_by_site": {"a": pytest.approx(0.1), "b": pytest.approx(0.0)},
        "site_spread": pytest.approx(0.025),
        "worst_site": "a",
        "worst_site_auroc": 0.9,
        "drift": pytest.approx((math.sqrt(0.6) + 0 + math.sqrt(15 / 13)) / 3),
        "coherence": pytest.approx((10 / 16 + 1 + 13 / 28) / 3),
        "update_cosine": pytest.approx((8 / math.sqrt(80) + 6 / math.sqrt(104)) / 2),
        "accumulated_variance": pytest.approx(21 / 31),
        "rounds_to_target": None,
        "inertia": {"stem": 0.0, "head": pytest.approx(math.sqrt(13 / 20))},
    }
    json.dumps(summary, allow_nan=False)


def test_each_round_by_hand() -> None:
    records = federation()
    assert round_stability(records[0]) == {
        "mean_auroc": pytest.approx(0.6),
        "worst_auroc": 0.5,
        "site_spread": pytest.approx(0.1),
        "drift": pytest.approx(math.sqrt(0.6)),
        "coherence": pytest.approx(0.625),
    }
    assert round_stability(records[1])["update_cosine"] == pytest.approx(8 / math.sqrt(80))
    assert set(round_stability(records[3])) == {"mean_auroc", "worst_auroc", "site_spread"}


def test_selected_round_and_target() -> None:
    stability = replay(federation(), target=0.75)
    assert stability.summary()["rounds_to_target"] == 1  # the first of two rounds at or above it
    assert stability.summary(0)["site_spread"] == pytest.approx(0.1)
    assert stability.summary(0)["worst_site_auroc"] == 0.5
    assert stability.summary(17)["worst_site"] is None


def test_oscillation_looks_back_k_differences_and_largest_drop_over_all() -> None:
    summary = replay(federation(), k=1).summary()
    assert summary["oscillation"] == pytest.approx(0.175)
    assert summary["largest_drop"] == pytest.approx(0.05)


@pytest.mark.parametrize("gain", [0.001, 0.02])
def test_steady_progress_is_oscillation_by_its_old_name_only(gain: float) -> None:
    """A line counts as its slope in `oscillation`, and not at all without the trend; jumps of c count as c in both."""
    rising = replay([record(t, {"a": 0.5 + gain * t}) for t in range(12)]).summary()
    assert rising["oscillation"] == pytest.approx(gain)
    assert rising["trend_free_oscillation"] == pytest.approx(0.0, abs=1e-12)
    jumping = replay([record(t, {"a": 0.5 + 0.03 * (t % 2)}) for t in range(12)]).summary()
    assert jumping["oscillation"] == jumping["trend_free_oscillation"] == pytest.approx(0.03)
    both = replay([record(t, {"a": 0.5 + gain * t + 0.03 * (t % 2)}) for t in range(12)]).summary()
    assert both["trend_free_oscillation"] == pytest.approx(0.03)


def test_the_trend_free_form_looks_back_k_rounds_too_and_needs_three() -> None:
    summary = replay(federation(), k=1).summary()
    assert summary["trend_free_oscillation"] == pytest.approx(0.225 / 2)
    two = replay([record(t, {"a": 0.5 + 0.1 * t}) for t in range(2)]).summary()
    assert (two["oscillation"], two["trend_free_oscillation"]) == (pytest.approx(0.1), None)


def test_largest_drop_of_a_run_that_only_rose_is_negative() -> None:
    summary = replay([record(t, {"a": 0.5 + 0.1 * t}) for t in range(3)]).summary()
    assert summary["largest_drop"] == pytest.approx(-0.1)
    assert summary["site_spread"] is None  # one site has no spread
    assert summary["worst_site"] == "a"


def test_only_evaluated_rounds_training_sites_and_supported_auroc_count() -> None:
    records = [
        record(0, {"a": 0.5, "b": None}),
        {"round": 1, "evaluated": False, "sites": {"a": {"role": "train"}}, "update": None},
        record(2, {"a": 0.4, "b": 0.8}),
    ]
    records[2]["sites"]["outside"] = {"role": "held_out", "val": {"auroc": 0.1}}
    records[2]["sites"]["late"] = {"role": "train"}
    summary = replay(records).summary()
    assert summary["oscillation"] == pytest.approx(0.1)  # .5 (a alone) -> .6 (a and b)
    assert summary["largest_drop_by_site"] == {"a": pytest.approx(0.1), "b": None, "late": None}
    assert (summary["worst_site"], summary["worst_site_auroc"]) == ("a", 0.4)
    assert round_stability(records[1]) == {}


def test_nothing_yet_and_one_round_are_null() -> None:
    empty = Stability().summary()
    assert {key for key, value in empty.items() if value is not None} == {"largest_drop_by_site", "inertia"}
    one = replay([record(0, {"a": 0.5, "b": 0.7})]).summary()
    assert (one["oscillation"], one["largest_drop"], one["drift"]) == (None, None, None)
    assert one["site_spread"] == pytest.approx(0.1)


def test_opposed_and_zero_updates() -> None:
    opposed = {"mean_sq": 4.0, "sq": 0.0, "cosine": None, "inertia": {}}
    still = {"mean_sq": 0.0, "sq": 0.0, "cosine": None, "inertia": {}}
    assert round_stability(record(0, {}, opposed)) == {"coherence": 0.0}
    assert round_stability(record(0, {}, still)) == {}
    summary = replay([record(0, {}, opposed), record(1, {}, still)]).summary()
    assert (summary["drift"], summary["coherence"], summary["accumulated_variance"]) == (None, 0.0, None)


def test_one_site_alone_scatters_from_nothing() -> None:
    """A round of one site has a cosine, and of another round the figures of scatter come alone."""
    rounds = federation()
    for name, entry in rounds[0]["sites"].items():
        entry |= {"samples": 8} if name == "a" else {}
    assert set(round_stability(rounds[0])) == {"mean_auroc", "worst_auroc", "site_spread"}
    assert replay(rounds).summary()["accumulated_variance"] == pytest.approx(15 / 21)
    pooled = [record(0, {"pooled": 0.5}, rounds[0]["update"]), record(1, {"pooled": 0.5}, rounds[1]["update"])]
    for entry in pooled:
        entry["sites"]["pooled"]["samples"] = 8
    summary = replay(pooled).summary()
    assert (summary["drift"], summary["coherence"], summary["accumulated_variance"]) == (None, None, None)
    assert summary["update_cosine"] == pytest.approx(8 / math.sqrt(80))


def test_rounding_below_zero_variance_is_zero_and_infinities_are_left_out() -> None:
    assert round_stability(record(0, {}, {"mean_sq": 1.0, "sq": 1.0 + 1e-12, "cosine": 1.0}))["drift"] == 0.0
    wild = {"mean_sq": math.inf, "sq": 1.0, "cosine": math.nan, "inertia": {"stem": math.inf}}
    summary = replay([record(0, {"a": math.nan}, wild)]).summary()
    json.dumps(summary, allow_nan=False)
    assert (summary["worst_site"], summary["drift"], summary["inertia"]) == (None, None, {})


def test_replaying_through_json_gives_the_same_summary_and_order_is_enforced() -> None:
    records = federation()
    assert replay(json.loads(json.dumps(records))).summary() == replay(records).summary()
    with pytest.raises(ValueError, match="round 1 came after round 1"):
        replay([*records[:2], records[1]])
    with pytest.raises(ValueError, match="k is 0"):
        Stability(k=0)
