"""Honest figures pass; with any one number replaced by what it cannot be they are refused, and the number is named."""

import copy
import math
import random

import numpy as np
import pytest

from medfl.metrics import figure_checks as checks
from medfl.metrics.site_figures import site_figures
from medfl.metrics.temperature import temperature_sums
from medfl.metrics.vector_scaling import scaling_sums

CLASSES = ("a", "b", "c [x]")
TARGETS = (*CLASSES, "malignant")
NEVER = ("high", 1e300, math.nan, -math.inf, -3, None, True, [], {}, 10**400, "\x1b[2J\n")


def honest(seed=0):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(3), 40)
    labels, groups = rng.integers(0, 3, 40), rng.integers(0, 12, 40)
    thresholds = dict.fromkeys(TARGETS, 0.4)
    return site_figures(probs, probs, labels, groups, CLASSES, malignant=("a", "b"), thresholds=thresholds, resamples=9)


def leaves(value, path=()):
    """The ways to every value that holds no further one."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    inner = [leaf for name, part in parts for leaf in leaves(part, (*path, name))]
    return inner or [path]


def replaced(value, path, other):
    if not path:
        return other
    made = copy.copy(value)
    made[path[0]] = replaced(value[path[0]], path[1:], other)
    return made


def part(value, path):
    for name in path:
        value = value[name]
    return value


@pytest.mark.parametrize("kind", ["figures", "sums", "curves"])
def test_one_value_that_cannot_be_is_enough(kind):
    said = honest()
    check, value = {
        "figures": (checks.site_figures_check(CLASSES, TARGETS, 15), said.figures),
        "sums": (checks.score_sums_check(3, 15), said.sums["after"]),
        "curves": (checks.curves_check(TARGETS), said.curves),
    }[kind]
    check(value, "")
    draw = random.Random(3)
    paths = leaves(value)
    for path in draw.sample(paths, min(40, len(paths))):
        for other in draw.sample(NEVER, 4):
            now = part(value, path)
            may_lack = now is None or isinstance(now, float) or path[0] in ("support", "confusion", "operating")
            if (other is None and may_lack) or (other is True and isinstance(now, bool)) or (other == [] and now == []):
                continue
            with pytest.raises(ValueError, match="`") as error:
                check(replaced(value, path, other), "")
            assert str(error.value).isprintable()
            assert len(str(error.value)) < 200


def test_parts_that_nobody_asked_for_or_that_lack_are_named():
    check, value = checks.site_figures_check(CLASSES, TARGETS, 15), honest().figures
    with pytest.raises(ValueError, match="a part more that nobody asked for"):
        check(value | {"more": 1.0}, "test")
    with pytest.raises(ValueError, match="lacks n_groups"):
        check({k: v for k, v in value.items() if k != "n_groups"}, "test")
    with pytest.raises(ValueError, match=r"`test\.auroc` is high and must be a number from 0 to 1"):
        check(value | {"auroc": "high"}, "test")
    with pytest.raises(ValueError, match="the wrong way round"):
        check(value | {"auroc_ci": [0.9, 0.1]}, "test")


def test_a_site_without_patches_is_honest_too():
    empty = np.empty(0, dtype=np.int64)
    said = site_figures(np.empty((0, 3)), np.empty((0, 3)), empty, empty, CLASSES, malignant=("a", "b"), resamples=9)
    checks.site_figures_check(CLASSES, TARGETS, 15)(said.figures, "")
    checks.curves_check(TARGETS)(said.curves, "")


def test_counts_that_would_overflow_are_refused():
    rows = [[0] * 1024 for _ in range(2)]
    check = checks.histograms_check(2)
    check({"positive": rows, "negative": rows}, "")
    for much in ([10**9 + 1], [10**9, 1]):
        with pytest.raises(ValueError, match="whole number"):
            check({"positive": [much + [0] * (1024 - len(much)), rows[1]], "negative": rows}, "")


def test_sums_of_temperatures():
    sums = temperature_sums(np.eye(3), np.arange(3), (0.5, 1.0)).to_lists()
    check = checks.temperature_sums_check(2)
    check(sums, "")
    for wrong in (
        {"n": -1},
        {"groups": -1},
        {"nll": [1.0]},
        {"slope": [math.nan, 0.0]},
        {"curvature": [-1.0, 0.0]},
        {"more": 0},
    ):
        with pytest.raises(ValueError, match="`"):
            check(sums | wrong, "")


def test_sums_of_vector_scaling():
    sums = scaling_sums(np.eye(3), np.arange(3), [[1.0] * 6, [0.5] * 6]).to_lists()
    check = checks.scaling_sums_check(2, 3)
    check(sums, "s")
    for key in ("nll", "gradient", "hessian"):
        with pytest.raises(ValueError, match=f"`s.{key}` is no list of 2"):
            check(sums | {key: sums[key][:1]}, "s")
    with pytest.raises(ValueError, match="no list of 6"):
        check(sums | {"hessian": [sums["hessian"][0][:2]] * 2}, "s")
    with pytest.raises(ValueError, match="must be a number"):
        check(sums | {"gradient": [[float("nan")] * 6] * 2}, "s")
