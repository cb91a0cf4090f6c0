"""Subgroups: figures of their own patches, nothing told of few, the same figures once sites are merged."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medfl.metrics import figure_checks
from medfl.metrics.group_figures import group_figures
from medfl.metrics.site_figures import site_figures
from medfl.metrics.small_cells import SmallCells
from medfl.metrics.subgroups import (
    NOT_STATED,
    SubgroupColumn,
    bin_names,
    pooled_subgroups,
    site_differences,
    subgroup_measurement,
    subgroup_values,
)

CLASSES, MALIGNANT = ("tumour", "normal"), ("tumour",)
THRESHOLD = 0.5


def drawn(codes, labels=None, seed=0):
    """Probabilities, labels and patients (one patch each) of as many patches as there are codes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(len(codes)) % 2 if labels is None else np.asarray(labels)
    score = 1 / (1 + np.exp(-(1.5 * (labels == 0) - 0.75 + rng.normal(size=len(codes)))))
    return np.stack([score, 1 - score], axis=1), labels, np.arange(len(codes))


def measured(codes, values, labels=None, min_count=1, seed=0):
    """What a site tells whose patches have these codes of one column: (figures, sums) by value, and its patches."""
    probs, labels, groups = drawn(codes, labels, seed)
    column = SubgroupColumn("scanner", values, np.asarray(codes))
    settings = {
        "thresholds": {"malignant": THRESHOLD},
        "malignant": MALIGNANT,
        "resamples": 10,
        "min_count": min_count,
    }

    def part(chosen):
        return site_figures(probs[chosen], probs[chosen], labels[chosen], groups[chosen], CLASSES, **settings)

    figures, sums = subgroup_measurement([column], SmallCells(min_count, labels, groups, CLASSES, MALIGNANT), part)
    return figures, sums, (probs, labels, groups, part)


def test_figures_are_those_of_the_subgroups_patches():
    codes = np.arange(60) // 4 % 3 - 1
    figures, _, (probs, labels, _, part) = measured(codes, ("a", "b"))
    assert list(figures["scanner"]["values"]) == ["a", "b", NOT_STATED]
    for value, code in (("a", 0), ("b", 1), (NOT_STATED, -1)):
        own, alone = figures["scanner"]["values"][value], part(codes == code).figures
        chosen = codes == code
        assert own["auroc"] == pytest.approx(roc_auc_score(labels[chosen] == 0, probs[chosen, 0]), abs=1e-12)
        assert own["n"] == own["n_groups"] == chosen.sum()
        for key in ("auroc_ci", "debiased_ece", "nll"):
            assert own[key] == alone[key]
        assert own["operating"] == {"malignant": alone["operating"]["malignant"]}
        assert "confusion" not in own


def test_one_small_subgroup_takes_the_smallest_other_with_it():
    """The site's own number of patients less the others' would be that of the small one."""
    codes = np.repeat([0, 1, 2], [30, 12, 3])
    figures, sums, _ = measured(codes, ("a", "b", "c"), min_count=5)
    assert (list(figures["scanner"]["values"]), figures["scanner"]["withheld"]) == (["a"], 2)
    assert list(sums["scanner"]) == ["a"]
    figures, sums, _ = measured(np.repeat([0, 1], [40, 4]), ("a", "b"), min_count=5)
    assert figures["scanner"] == {"values": {}, "withheld": 2}
    assert sums["scanner"] == {}


def test_a_class_of_few_patients_in_a_subgroup_is_in_no_count_and_no_sum():
    """Nor would it follow from the site's own sums less those of the only other subgroup."""
    codes = np.repeat([0, 1, 2], 20)
    labels = np.arange(60) % 2
    labels[20:38] = 1  # two tumours in b
    figures, sums, _ = measured(codes, ("a", "b", "c"), labels, min_count=5)
    assert list(figures["scanner"]["values"]) == ["a", "b", "c"]
    assert list(sums["scanner"]) == ["c"]
    for own in figures["scanner"]["values"].values():
        assert (own["operating"]["malignant"]["positives"], own["operating"]["malignant"]["negatives"]) == (None, None)
    for key in ("after", "before"):
        assert not np.any(sums["scanner"]["c"][key]["confusion"])
        assert sum(sums["scanner"]["c"][key]["left_out"]) == 20
    _, sums, _ = measured(codes, ("a", "b", "c"), min_count=5)
    assert list(sums["scanner"]) == ["a", "b", "c"]


def test_merged_sums_give_the_figures_of_all_sites_patches_of_a_subgroup():
    sites = {name: measured(np.arange(80) // 2 % 2, ("a", "b"), seed=seed) for seed, name in enumerate(("n", "s"))}
    sums = {name: {"subgroups": own[1]} for name, own in sites.items()}
    merged = pooled_subgroups(sums, CLASSES, MALIGNANT, THRESHOLD)
    chosen = np.arange(80) // 2 % 2 == 1
    probs = np.concatenate([own[2][0][chosen] for own in sites.values()])
    truth = np.concatenate([own[2][1][chosen] for own in sites.values()]) == 0
    own = merged["scanner"]["b"]
    assert (own["n"], own["sites"]) == (80, ["n", "s"])
    assert abs(own["auroc"] - roc_auc_score(truth, probs[:, 0])) <= own["auroc_resolution"]
    assert own["sensitivity"] == (probs[truth, 0] >= THRESHOLD).mean()
    assert own["specificity"] == (probs[~truth, 0] < THRESHOLD).mean()
    assert pooled_subgroups({"n": {}}, CLASSES) == {}


def test_means_over_sites_and_differences_leave_out_what_is_not_stated():
    entries = {
        name: {"role": "held_out", "subgroups": measured(np.arange(90) // 2 % 3 - 1, ("a", "b"), seed=seed)[0]}
        for seed, name in enumerate(("n", "s"))
    }
    entries["w"] = {"role": "held_out", "auroc": 0.9}
    over = group_figures(entries, "held_out")["subgroups"]["scanner"]
    aurocs = {v: np.mean([entries[n]["subgroups"]["scanner"]["values"][v]["auroc"] for n in "ns"]) for v in ("a", "b")}
    assert over["silent"] == ["w"]
    assert over["values"]["a"]["mean_auroc"] == pytest.approx(aurocs["a"])
    assert over["values"]["a"]["n"] == 60
    assert over["difference"]["auroc"]["value"] == pytest.approx(abs(aurocs["a"] - aurocs["b"]))
    assert {over["difference"]["auroc"][end] for end in ("largest", "smallest")} == {"a", "b"}
    within = {name: site_differences(entries[name], "scanner")["auroc"]["value"] for name in "ns"}
    assert over["at_one_site"]["auroc"]["value"] == max(within.values())
    assert "subgroups" not in group_figures({"w": entries["w"]}, "held_out")


def test_bins_stand_in_the_order_of_their_numbers():
    names = bin_names([5, 50, 65.5])
    assert names == ["below 5", "5 to 50", "50 to 65.5", "65.5 and above"]
    entry = {"subgroups": {"age": {"values": {key: {"n": 1} for key in (*reversed(names), NOT_STATED, "unsure")}}}}
    assert subgroup_values({"n": entry}, "age") == [*names, "unsure", NOT_STATED]


def test_figures_of_subgroups_that_nobody_asked_for_are_refused():
    figures, _, (*_, part) = measured(np.arange(40) // 2 % 2, ("a", "b"))
    said = part(np.ones(40, dtype=bool)).figures
    targets = (*CLASSES, "malignant")

    def check(own, columns=("scanner",)):
        figure_checks.site_figures_check(CLASSES, targets, 15, columns)({**said, "subgroups": own}, "")

    check(figures)
    values = figures["scanner"]["values"]
    bad = [
        {"sex": figures["scanner"]},
        {"scanner": {"values": {"a\n": values["a"]}, "withheld": 0}},
        {"scanner": {"values": {"a" * 41: values["a"]}, "withheld": 0}},
        {"scanner": {"values": {str(at): values["a"] for at in range(20)}, "withheld": 0}},
        {"scanner": {"values": {"a": {**values["a"], "auroc": 1.5}}, "withheld": 0}},
        {"scanner": {"values": {"a": {**values["a"], "confusion": [[1]]}}, "withheld": 0}},
        {"scanner": {"values": values, "withheld": -1}},
    ]
    for own in bad:
        with pytest.raises(ValueError, match="subgroups"):
            check(own)
    with pytest.raises(ValueError, match="nobody asked for"):
        check(figures, ())
