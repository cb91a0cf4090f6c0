"""Alarms of monitoring: a small simulation here, the committed one, and the page that quotes it."""

import dataclasses

import pytest

from benchmarks import monitoring
from benchmarks.monitoring import COMMITTED, DRIFT, OWN, PAGE, QUIET, SINGLE, measured, parts, read
from benchmarks.pages import rewritten


def test_a_month_is_drawn_again_the_same_and_a_large_change_is_always_found():
    setting = dataclasses.replace(DRIFT[0], moved=2.0)
    row = measured(setting, 3, seed=1)
    assert (row.at_a_site, row.together, row.either) == (1.0, 1.0, 1.0)
    assert measured(QUIET[1], 3, seed=1) == measured(QUIET[1], 3, seed=1)


def test_the_committed_simulation_has_every_setting_and_holds_the_level():
    rows = read(COMMITTED)
    settings = [{f.name: getattr(row, f.name) for f in dataclasses.fields(monitoring.Setting)} for row in rows]
    assert settings == [dataclasses.asdict(setting) for setting in (*SINGLE, *QUIET, *DRIFT)]
    assert min(row.repeats for row in rows) >= 1000
    assert max(row.either for row in rows if not row.moved) <= 0.02  # 1 % is promised
    shared = [row for row in rows if row.compared == OWN and row.moved and row.moved_sites == row.sites]
    assert all(row.together >= row.at_a_site for row in shared)
    assert [row.together for row in shared] == sorted(row.together for row in shared)


def test_the_page_quotes_it():
    text, made = PAGE.read_text(encoding="utf-8"), parts(read(COMMITTED))
    assert rewritten(text, {name: lambda part=part: part for name, part in made.items()}) == text


def test_what_is_no_table_is_none(tmp_path):
    assert read(tmp_path / "none.csv") == []
    with pytest.raises(ValueError, match="0 places"):
        rewritten("", {"alarms-single": lambda: ""})
