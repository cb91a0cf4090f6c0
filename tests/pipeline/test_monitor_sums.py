"""Sums that a site sends are read back as they were, and nothing else is."""

import json

import numpy as np
import pytest

from medfl.errors import MedflError
from medfl.pipeline.monitor_sums import MonitorSums, read_sums, site_sums
from medfl.pipeline.monitored_patches import MonitoredPatches

CLASSES = ["lung_n", "colon_n"]
FACTS = {"fingerprint": "f", "weights": "w", "classes": CLASSES}


@pytest.fixture(scope="module")
def sums():
    rng = np.random.default_rng(0)
    labels, groups = np.arange(60) % 2, np.arange(60) // 2
    p = np.clip(0.2 + 0.6 * labels + rng.normal(0, 0.15, 60), 0.01, 0.99)
    new = MonitoredPatches("north", np.column_stack([1 - p, p]), labels, groups, rng.normal(0.5, 0.1, (30, 6)), 5)
    return site_sums(new, CLASSES)[0]


def test_there_and_back(sums, tmp_path):
    file = tmp_path / "sums.json"
    file.write_text(json.dumps(FACTS | {"sites": {"north": {"sums": sums.to_lists()}}}))
    assert read_sums(file, FACTS)["north"].to_lists() == sums.to_lists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"patches": 59}, "`predicted` has 60 patches of 30 source groups"),
        ({"patches": "60"}, "whole number"),
        ({"labelled": 3}, "`scores` is not of the 3 patches"),
        ({"predicted": {"groups": 30, "counts": [30, 30], "products": [[1, 2], [3, 4]]}}, "products"),
        ({"predicted": {"groups": 2, "counts": [30, 30], "products": [[900, 0], [0, 900]]}}, "2 source groups"),
        ({"moments": {"confidence": [4, 1, 1, 1]}}, "source groups"),
        ({"moments": {"confidence": [31, 31, 31, 31]}}, "more than there is"),
        ({"moments": {"a patient": [30, 1, 1, 1]}}, "nobody asked for"),
        ({"scores": {"nll": float("nan")}}, "nobody asked for"),
        ({"path": "/srv"}, "nobody asked for"),
    ],
)
def test_what_no_site_gives_is_refused(sums, change, words):
    with pytest.raises(ValueError, match=words):
        MonitorSums.from_lists(sums.to_lists() | change, CLASSES)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (FACTS | {"weights": "other"}, "is of another model"),
        (FACTS | {"sites": {}}, "no sites"),
        (FACTS | {"sites": []}, "no sites"),
        (FACTS | {"sites": {"north": {}}}, "site north: these are no sums"),
        (FACTS | {"sites": {"no\x1brth": {}}}, "cannot be shown"),
        ("text", "not a JSON mapping"),
    ],
)
def test_a_file_that_is_none_is_one_sentence(tmp_path, said, words):
    file = tmp_path / "sums.json"
    file.write_text(json.dumps(said))
    with pytest.raises(MedflError, match=words):
        read_sums(file, FACTS)
    with pytest.raises(MedflError, match="cannot be read"):
        read_sums(tmp_path / "absent.json", FACTS)
