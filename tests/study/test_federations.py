"""Which repeats are of one federation, and what counts of it."""

import yaml

from medfl.study.federations import federations
from medfl.study.pool import Pool
from medfl.study.study_file import load_study
from tests.tiny import write_tiny

DRAWN = {"generate": {"count": 2, "held_out": 1, "patches": 24}}
LISTED = {"generate": None, "train": [{"name": "a"}, {"name": "b"}], "held_out": [{"name": "c"}]}


def plan(folder, **keys):
    write_tiny(folder, sites=DRAWN)
    partitions = {"stained": {"sites.generate.stain_strength": 1}, "plain": {}, "listed": {"sites": LISTED}}
    content = {"name": "s", "pipeline": "tiny.yaml", "seeds": [3, 4], "brackets": False, "methods": {"fedavg": []}}
    (folder / "s.yaml").write_text(yaml.safe_dump(content | {"partitions": partitions} | keys))
    return load_study(folder / "s.yaml")


def test_a_seed_that_draws_its_sites_is_a_federation_and_listed_sites_are_one(tmp_path):
    own = federations(plan(tmp_path))
    assert own["stained", "3"] == own["plain", "3"] == "3"
    assert own["stained", "4"] == own["plain", "4"] == "4"
    assert own["listed", "3"] == own["listed", "4"] == "3"
    pool = Pool.of_all(own, ["stained", "plain", "listed"])
    assert pool.strata == ["stained", "plain"]  # of one federation nobody knows how it varies
    assert Pool.of_all(own, ["listed"]).strata == ["listed"]


def test_with_the_seed_as_unit_every_seed_counts(tmp_path):
    own = federations(plan(tmp_path, unit="seed"))
    assert own["listed", "4"] == "4"
    assert len(Pool.of_all(own, ["stained", "plain", "listed"]).strata) == 3
