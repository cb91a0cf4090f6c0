"""What is said below the tables of subgroups."""

from medfl.runs.subgroup_tables import subgroup_tables


def test_a_site_whose_figures_are_all_withheld_is_not_said_to_state_nothing():
    scanner = {"scanner": {"values": {}, "withheld": 2}}
    sites = {
        "ward": {"role": "train", "withheld": {"min_count": 5, "all": True, "classes": []}},
        "north": {"role": "held_out", "subgroups": scanner},
        "south": {"role": "held_out"},
    }
    (table,) = subgroup_tables({"sites": sites}, sites)
    assert table.sentences == [
        "scanner is not stated at south",
        "Whether scanner is stated is withheld with all figures at ward",
        "Subgroups of scanner with few patients are withheld at north",
    ]
