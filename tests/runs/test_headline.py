"""What a run misses, as data and in a sentence: read from counts that sites tell, whatever the mean AUROC says."""

import pytest

from medfl.errors import MedflError
from medfl.runs.headline import HitRate, headline
from medfl.runs.registration import REGISTERED, note_registration, registration

CLASSES = ("lung_aca", "lung_n", "lung_scc")


def site(confusion, sensitivity=None, role="held_out", **more):
    """A site's entry of summary.json from its confusion matrix; `sensitivity` for the target malignant."""
    support = {name: {"patches": sum(row), "groups": 2} for name, row in zip(CLASSES, confusion, strict=True)}
    positives = sum(confusion[0]) + sum(confusion[2])
    point = {"threshold": 0.3, "positives": positives, "sensitivity": sensitivity, "sensitivity_ci": [0.1, 0.9]}
    operating = {} if sensitivity is None else {"operating": {"malignant": point}}
    return {"role": role, "auroc": 0.967, "confusion": confusion, "support": support, **operating, **more}


def summary(**sites):
    names = {role: [n for n, e in sites.items() if e["role"] == role] for role in ("held_out", "train")}
    figures = {role: {"sites": its, "mean_auroc": 0.967, "mean_ece": 0.1} for role, its in names.items()}
    operating = {"sensitivity": 0.95}
    return {
        "sites": sites,
        "held_out": figures["held_out"],
        "train_sites": figures["train"],
        "operating": operating,
    }


GOOD = [[40, 0, 0], [0, 40, 0], [0, 0, 40]]
BLIND = [[8, 0, 32], [0, 40, 0], [1, 0, 39]]


def test_a_class_that_is_not_found_stands_beside_a_fine_auroc():
    first = headline(summary(north=site(GOOD, 1.0), south=site(BLIND, 0.85), home=site(GOOD, 0.1, role="train")))
    assert first.recall == HitRate(8, 40, "south", "lung_aca", taken_for="lung_scc")
    assert first.recall_overall == HitRate(48, 80, label="lung_aca")
    assert first.malignant == HitRate(68, 80, "south", ci=(0.1, 0.9))
    assert (first.malignant_overall.hits, first.malignant_overall.patches, first.sites) == (148, 160, 2)
    assert first.sentence == (
        "At south the model misses 12 of 80 malignant patches at the threshold 0.300 and takes 32 of 40 lung_aca for "
        "another class, most often lung_scc."
    )
    told = dict(first.lines)
    assert told["Sensitivity for malignant"] == (
        "lowest 0.850 [0.100, 0.900] at south (68 of 80); all held-out sites 0.925 (148 of 160); threshold 0.300, "
        "chosen for 0.95 on validation data"
    )
    assert told["Recall, worst class"].startswith("lung_aca at south 0.200 (8 of 40 named so); all held-out sites:")


@pytest.mark.parametrize(
    ("sites", "sentence"),
    [
        (
            {"a": site(GOOD, 0.9), "b": site(BLIND, 1.0)},
            "At a the model misses 8 of 80 malignant patches at the threshold 0.300; at b it takes 32 of 40 lung_aca "
            "for another class, most often lung_scc.",
        ),
        (  # no class is malignant
            {"a": site(BLIND)},
            "At a the model takes 32 of 40 lung_aca for another class, most often lung_scc.",
        ),
        (
            {"a": site(GOOD, 1.0), "b": site(GOOD, 1.0)},
            "The model misses none of 160 malignant patches at the threshold 0.300; every class is named right "
            "everywhere.",
        ),
        ({}, "No site was measured."),
    ],
)
def test_the_sentence_fits_the_task(sites, sentence):
    assert headline(summary(**sites)).sentence == sentence


def test_only_what_a_site_tells_is_counted():
    withheld = {"min_count": 5, "all": False, "classes": ["lung_aca"]}
    hidden = site([[8, 0, 32], [0, 40, 0], [0, 4, 36]], 0.8, withheld=withheld)
    hidden["confusion"][0] = [None, None, None]
    hidden["support"]["lung_aca"] = {"patches": None, "groups": None}
    hidden["operating"]["malignant"] |= {"positives": None, "sensitivity": None, "sensitivity_ci": None}
    first = headline(summary(a=hidden))
    assert first.recall == HitRate(36, 40, "a", "lung_scc", taken_for="lung_n")
    assert first.malignant is None
    assert dict(first.lines)["Sensitivity for malignant"].startswith("not known")
    hidden["confusion"] = [[None] * 3] * 3
    first = headline(summary(a=hidden))
    assert first.sentence == "No site tells how many patches were found."
    assert dict(first.lines)["Counts withheld"] == "few patients: a"


def test_nothing_is_said_of_classes_that_a_site_withholds():
    """One class alone is told, and all of it is found: that is not every class."""
    hidden = [[None, None, None], [0, 40, 0], [None, None, None]]
    small = {"min_count": 5, "all": False, "classes": ["lung_aca", "lung_scc"]}
    entry = site(GOOD) | {"confusion": hidden, "withheld": small}
    for label in ("lung_aca", "lung_scc"):
        entry["support"] = entry["support"] | {label: {"patches": None, "groups": None}}
    first = headline(summary(north=entry))
    assert first.sentence == (
        "Of what is told all is named right; nothing is known of lung_aca, lung_scc, whose counts are withheld."
    )
    assert dict(first.lines)["Counts withheld"] == "few patients: north (lung_aca, lung_scc)"


def test_without_held_out_sites_it_is_about_training_sites_and_a_site_reads_only_of_itself():
    whole = summary(home=site(BLIND, 0.5, role="train"), other=site(GOOD, 1.0, role="train"))
    assert headline(whole).role == "train"
    own = headline(whole, {"registry": {"name": "m", "gates": {"held_out_auroc_min": 0.5}}}, site="other")
    assert "home" not in repr(own)
    assert own.malignant.missed == 0
    assert dict(own.lines)["Gates"] == "MISSED"


def test_the_gates_and_the_name_in_the_registry():
    result = summary(a=site(GOOD, 1.0, auroc_ci=[0.9, 1.0]))
    assert dict(headline(result, {}).lines)["Gates"] == "none stated, so nothing was asked of this model"
    assert headline(result, {}).place == "not registered"
    asked = {"registry": {"name": "m", "alias": "champion", "gates": {"held_out_auroc_min": 0.8}}}
    passed = headline(result, asked)
    assert passed.verdict.startswith("passed (held_out_auroc_min: the lower 95 % bound of AUROC at the held-out site a")
    assert passed.place == "m, alias champion"
    asked["registry"]["gates"] = {"held_out_auroc_min": 0.8, "held_out_ece_max": 0.05}
    missed = headline(result, asked)
    assert missed.verdict.startswith("MISSED (held_out_ece_max: ")
    assert missed.place == "not in m, alias champion: its gates are missed"


def test_a_registration_is_noted_and_read(tmp_path):
    assert registration(tmp_path) == ""
    note_registration(tmp_path, "m", "3", "champion")
    note_registration(tmp_path, "n", "1", None)
    assert registration(tmp_path) == "m version 3 (champion); n version 1"
    (tmp_path / REGISTERED).write_text('{"m": 3}')
    with pytest.raises(MedflError, match=r"registered\.json is damaged; delete it"):
        registration(tmp_path)
