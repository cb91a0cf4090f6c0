"""The page of privacy says what code and committed figures say."""

import csv

import pytest

from benchmarks import privacy
from benchmarks.pages import rewritten


def test_every_generated_part_of_the_page_is_made_by_code():
    text = privacy.PAGE.read_text(encoding="utf-8")
    assert all(f"<!-- {name} -->" in text for name in privacy.PARTS)
    assert rewritten(text, privacy.PARTS) == text


def test_what_the_page_says_of_the_measured_example():
    """Noise up to 0.03 keeps the model and has an epsilon above ten thousand; 0.3 and more leaves chance."""
    with privacy.COST.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["seed"] for row in rows} == {"1", "2", "3"}
    assert {row["epsilon"] for row in rows if row["setting"] in ("FedAvg", "clipping alone")} == {""}
    for row in rows:
        if row["setting"].startswith("noise"):
            noise = float(row["setting"].removeprefix("noise "))
            assert (float(row["epsilon"]) > 1e4) == (noise <= 0.03) == (float(row["train_auroc"]) > 0.7)
            assert (noise >= 0.3) == (float(row["train_auroc"]) < 0.55)
            assert float(row["epsilon"]) == pytest.approx(privacy.epsilon(noise, 20, privacy.DELTA), rel=1e-5)


def test_the_busiest_site():
    assert privacy.most_often(5, 5, 10) == 10
    assert 25 <= privacy.most_often(10, 5, 50) <= 50
    assert privacy.shown(1234.5) == "1,234"
    assert privacy.shown(12.345) == "12.3"
