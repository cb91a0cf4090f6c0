"""The tables of the command line, with class and site names of any kind."""

from medfl.cli.console_tables import (
    print_confusion,
    print_operating_points,
    print_outcome,
    print_partition,
    print_sites,
)
from medfl.cli.terminal import Terminal
from medfl.metrics.group_figures import group_figures
from tests import runfolders
from tests.odd_names import hidden, odd_names
from tests.runfolders import FakeRun


def test_a_cell_in_brackets_is_shown(capsys, tmp_path):
    run = FakeRun(tmp_path / "r").begin().play()
    summary = run.summary()
    summary["sites"]["east"] |= {"auroc": 1.0, "auroc_ci": None, "few_groups": True}
    print_sites(Terminal(), summary["sites"])
    assert "1.000 [n/a] too few groups" in capsys.readouterr().out


def test_names_of_any_kind(capsys, tmp_path, monkeypatch):
    names = [name for name in odd_names(60, seed=3) if name.isprintable() or "\ud800" not in name]
    classes, sites = tuple(names[:12]), names[30:34]
    monkeypatch.setattr(runfolders, "CLASSES", classes)
    run = FakeRun(tmp_path / "r", train=sites[:2], held_out=sites[2:])
    entries = {site: run.measured(site, 0, "test", 20) | {"role": role} for site, role in run.roles.items()}
    point = {"threshold": 0.5, "positives": 1, "negatives": 2, "sensitivity": 0.5, "specificity": 0.5}
    point |= {"sensitivity_ci": None, "specificity_ci": None}
    entries[sites[2]]["operating"] = dict.fromkeys(classes, point)
    rows = [
        {"site": site, "role": "train", "split": "val", "class": name, "patches": 1234, "groups": 5}
        for site in sites
        for name in classes
    ]
    print_sites(Terminal(), entries, title=names[40])
    print_operating_points(Terminal(), {"sites": entries, "operating": None})
    print_confusion(Terminal(), sites[2], entries[sites[2]]["confusion"], classes)
    capsys.readouterr()
    print_partition(Terminal(), rows, classes[:4])
    shown = capsys.readouterr().out
    assert not hidden(shown)
    assert shown.count("1234 (5)") == 16
    assert "normal [mucosa]" in shown
    assert "HER2 [/0]" in shown
    assert "Patches (source groups)" in shown
    print_partition(Terminal(), rows, classes[:4], "slides")
    assert "Slides (patients)" in capsys.readouterr().out


def test_the_end_says_what_is_missed_before_where_things_are(capsys, tmp_path):
    summary = FakeRun(tmp_path / "r", skill=0.5).whole().summary()
    summary |= {"held_out": group_figures(summary["sites"], "held_out"), "virtual_seconds": None}
    print_outcome(Terminal(), summary, "runs/r", "MLflow: off")
    lines = capsys.readouterr().out.splitlines()
    said = next(line for line in lines if line.startswith("At "))
    assert "for another class" in said
    assert lines.index(said) > max(i for i, line in enumerate(lines) if line.startswith("Stability"))
    after = lines[lines.index(said) + 1 :]
    assert [line.partition(":")[0] for line in after if line] == [
        "Recall, worst class",
        "Gates",
        "Registry",
        "Run",
        "MLflow",
    ]
