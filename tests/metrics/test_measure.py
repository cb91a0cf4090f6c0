"""The dict a site reports, its refusals, and how figures are printed."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from medfl.metrics import format_interval, mean_supported, measure

CLASSES = ["adeno", "normal", "squamous"]
KEYS = {
    "n", "n_groups", "few_groups", "supported_classes", "support", "auroc", "auroc_per_class",
    "balanced_accuracy", "accuracy", "loss", "ece", "debiased_ece", "ece_noise", "classwise_ece", "brier", "nll",
    "confusion",
}  # fmt: skip
INTERVAL_KEYS = {
    "auroc_ci", "auroc_se", "auroc_df", "auroc_least", "auroc_per_class_ci", "balanced_accuracy_ci", "ece_ci",
    "classwise_ece_ci", "brier_ci", "nll_ci", "reliability",
}  # fmt: skip


def case(seed: int = 0, n: int = 90) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    probs = rng.dirichlet(np.ones(3), size=n) * 0.6 + 0.4 * np.eye(3)[labels] * (rng.random(n) < 0.6)[:, None]
    return probs / probs.sum(axis=1, keepdims=True), labels, 100 + np.arange(n) % 30


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for entry in value.values() for leaf in leaves(entry)]
    if isinstance(value, list):
        return [leaf for entry in value for leaf in leaves(entry)]
    return [value]


def assert_json_ready(result: dict[str, Any]) -> None:
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert {type(leaf) for leaf in leaves(result)} <= {int, float, bool, str, type(None)}


def test_keys_types_and_values() -> None:
    probs, labels, groups = case()
    plain, full = measure(probs, labels, groups, CLASSES), measure(probs, labels, groups, CLASSES, resamples=40)
    assert set(plain) == KEYS
    assert set(full) == KEYS | INTERVAL_KEYS
    assert {key: full[key] for key in KEYS} == plain
    assert_json_ready(full)
    assert (plain["n"], plain["n_groups"], plain["few_groups"]) == (90, 30, False)
    assert plain["supported_classes"] == CLASSES
    assert plain["auroc"] == pytest.approx(roc_auc_score(labels, probs, multi_class="ovr"))
    assert plain["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, probs.argmax(axis=1)))
    assert plain["support"]["normal"] == {
        "patches": int((labels == 1).sum()),
        "groups": len(np.unique(groups[labels == 1])),
    }
    assert sum(map(sum, plain["confusion"])) == 90
    assert sum(plain["confusion"][0]) == int((labels == 0).sum())  # rows are the truth
    assert plain["loss"] == plain["nll"]
    assert measure(probs, labels, groups, CLASSES, loss=0.25)["loss"] == 0.25
    assert sum(full["reliability"]["count"]) == 90
    assert len(full["reliability"]["edges"]) == 16
    assert full["reliability"]["accuracy"][0] is None  # a top probability is never below 1/3
    for key in ("auroc", "balanced_accuracy", "ece", "classwise_ece", "brier", "nll"):
        low, high = full[f"{key}_ci"]
        assert low <= full[key] <= high


def test_seed_and_group_names() -> None:
    probs, labels, groups = case()
    first = measure(probs, labels, groups, CLASSES, resamples=40, seed=1)
    assert first == measure(probs, labels, groups * 7 - 5, CLASSES, resamples=40, seed=1)
    other = measure(probs, labels, groups, CLASSES, resamples=40, seed=2)
    assert first["ece_ci"] != other["ece_ci"]
    assert first["auroc_ci"] == other["auroc_ci"]  # no resampling in it


@pytest.mark.parametrize("resamples", [0, 20])
def test_empty_site(resamples: int) -> None:
    nothing = np.empty(0, dtype=np.int64)
    result = measure(np.empty((0, 3)), nothing, nothing, CLASSES, resamples=resamples, loss=1.0)
    assert_json_ready(result)
    counts = {"n", "n_groups", "few_groups", "supported_classes", "support", "confusion", "reliability"}
    assert (result["n"], result["n_groups"], result["supported_classes"]) == (0, 0, [])
    figures = {key: value for key, value in result.items() if key not in counts}
    assert set(leaves(figures)) == {None}


@pytest.mark.parametrize("resamples", [0, 20])
def test_one_patch_and_one_class(resamples: int) -> None:
    for n in (1, 12):
        probs, _, _ = case(n=n)
        result = measure(probs, np.full(n, 2), np.arange(n), CLASSES, resamples=resamples)
        assert_json_ready(result)
        assert result["auroc"] is None
        assert result["supported_classes"] == []
        assert set(result["auroc_per_class"].values()) == {None}
        assert result["few_groups"] is (n == 1)
        assert 0 <= result["balanced_accuracy"] <= 1
        if resamples:
            assert (result["auroc_ci"], result["auroc_se"]) == (None, None)
            assert (result["brier_ci"] is None) is (n == 1)


def test_absent_class_is_left_out_of_the_mean() -> None:
    labels = np.array([0, 1] * 6)
    result = measure(np.eye(3)[labels], labels, np.arange(12), CLASSES, resamples=20)
    assert result["auroc"] == 1.0
    assert result["auroc_per_class"] == {"adeno": 1.0, "normal": 1.0, "squamous": None}
    assert result["supported_classes"] == ["adeno", "normal"]
    # 6 against 6 groups, half a pair of 36 misordered: 1 - 1/72, sqrt(2)/72 with 10 degrees of freedom
    half = 2.228139 * math.sqrt(2) / (1 - 1 / 72)
    assert result["auroc_ci"] == [pytest.approx(1 / (1 + math.exp(half - math.log(71))), abs=1e-4), 1.0]
    assert result["auroc_least"] == {"error": 1 / 72, "se": pytest.approx(math.sqrt(2) / 72), "df": 10.0}
    assert result["auroc_per_class_ci"]["squamous"] is None
    assert result["auroc_se"] is None  # nothing varies, which is no precision
    assert result["support"]["squamous"] == {"patches": 0, "groups": 0}


def test_single_precision_is_accepted() -> None:
    probs, labels, groups = case()
    single = measure(probs.astype(np.float32), labels, groups, CLASSES)
    assert_json_ready(single)
    assert single["auroc"] == pytest.approx(measure(probs, labels, groups, CLASSES)["auroc"], abs=1e-3)


def test_refusals() -> None:
    probs, labels, groups = case(n=6)
    bad = probs.copy()
    bad[2, 1], bad[4] = np.inf, np.nan
    with pytest.raises(ValueError, match="4 of 18 probabilities are not finite"):
        measure(bad, labels, groups, CLASSES)
    with pytest.raises(ValueError, match=r"6 of 6 rows .*logits"):
        measure(np.log(probs), labels, groups, CLASSES)
    with pytest.raises(ValueError, match="1 of 6 labels"):
        measure(probs, np.array([0, 1, 2, 3, 0, 1]), groups, CLASSES)
    with pytest.raises(ValueError, match="1 of 6 labels"):
        measure(probs, np.array([0, 1, 2, -1, 0, 1]), groups, CLASSES)
    with pytest.raises(ValueError, match="probs have shape"):
        measure(probs, labels, groups, CLASSES[:2])
    with pytest.raises(ValueError, match="labels have shape"):
        measure(probs, labels[:5], groups, CLASSES)
    with pytest.raises(ValueError, match="groups have shape"):
        measure(probs, labels, groups[:, None], CLASSES)
    with pytest.raises(ValueError, match="labels must be integers"):
        measure(probs, labels.astype(float), groups, CLASSES)
    with pytest.raises(ValueError, match="not unique"):
        measure(probs, labels, groups, ["a", "a", "b"])
    with pytest.raises(ValueError, match="loss is nan"):
        measure(probs, labels, groups, CLASSES, loss=math.nan)


@pytest.mark.parametrize(
    ("value", "ci", "few", "expected"),
    [
        (0.943, (0.901, 0.972), False, "0.943 [0.901, 0.972]"),
        (0.943, [0.8149, 1.0], True, "0.943 [0.81, 1.00] too few groups"),
        (None, None, False, "n/a"),
        (math.nan, (0.1, 0.2), False, "n/a"),
        (0.5, None, False, "0.500 [n/a]"),
        (0.5, None, True, "0.500 [n/a] too few groups"),
        (1.0, (0.47818, 1.0), False, "1.000 [0.478, 1.000]"),
        (1.0, (1.0, 1.0), False, "1.000 [n/a]"),
        (0.99996, (0.99991, 1.0), False, "1.000 [0.999, 1.000]"),
        (0.99996, (0.99991, 1.0), True, "1.000 [0.99, 1.00] too few groups"),
        (0.0, (0.0, 0.00004), False, "0.000 [0.000, 0.001]"),
        (1.25, (1.1, 1.4), False, "1.250 [1.100, 1.400]"),  # a loss may exceed 1
    ],
)
def test_format_interval(value: float | None, ci: Any, few: bool, expected: str) -> None:
    assert format_interval(value, ci, few_groups=few) == expected


def test_mean_supported() -> None:
    assert mean_supported([0.5, None, 1.0]) == 0.75
    assert mean_supported([None]) is None
    assert mean_supported(iter(())) is None
