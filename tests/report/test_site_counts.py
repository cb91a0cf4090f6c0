"""What is told of a site's patches: nothing that stands on fewer source groups than the floor."""

from types import SimpleNamespace

from medfl.report.dossier.site_counts import site_counts
from medfl.runs.data_record import write_rows


def counted(tmp_path, groups, floor=None, blank=()):
    """The counts of a site whose classes have these source groups, and twice as many patches."""
    rows = [
        {
            "site": "north",
            "role": "train",
            "split": "train",
            "class": f"c{number}",
            "groups": "" if number in blank else count,
            "patches": "" if number in blank else 2 * count,
            "digest": "d",
        }
        for number, count in enumerate(groups)
    ]
    write_rows(tmp_path / "allocation_summary.csv", rows)
    pipeline = {"sites": {"train": [{"name": "north", "min_count": floor}]}}
    run = SimpleNamespace(folder=tmp_path, pipeline=pipeline)
    return site_counts(SimpleNamespace(run=run, roles={"north": "train"}))["north"]


def test_a_run_without_a_floor_is_held_to_todays(tmp_path):
    own = counted(tmp_path, [9, 4, 8])
    assert own.floor == 5
    assert [(count.label, count.patches) for count in own.counts] == [("c0", 18)]  # c2 would tell c1 from the total
    assert own.words() == "train over 18 (2 counts of few source groups withheld)"


def test_a_sites_own_floor_counts(tmp_path):
    assert len(counted(tmp_path, [9, 8, 7], floor=9).counts) == 1
    assert counted(tmp_path, [9, 8, 7], floor=7).words() == "train 48"


def test_what_is_blank_stays_blank_and_nothing_more(tmp_path):
    own = counted(tmp_path, [9, 3, 6], blank=(1, 2))
    assert [count.label for count in own.counts] == ["c0"]
    assert counted(tmp_path, [3], blank=(0,)).words().startswith("train withheld")


def test_without_a_table_nothing_is_told(tmp_path):
    run = SimpleNamespace(folder=tmp_path, pipeline={"sites": {"train": [{"name": "north"}]}})
    assert site_counts(SimpleNamespace(run=run, roles={"north": "train"}))["north"].words() == "nothing told"
