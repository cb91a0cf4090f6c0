"""The benchmark's table is what the committed tables of runs give."""

import json

from benchmarks import public_benchmark
from benchmarks.pages import rewritten


def test_the_table_of_the_page_is_that_of_the_committed_runs():
    text = public_benchmark.PAGE.read_text(encoding="utf-8")
    assert rewritten(text, public_benchmark.PARTS) == text
    assert "| `fedavg` |" in text


def test_a_seed_counts_once_and_few_seeds_have_no_interval():
    rows = [{"seed": "1", "auroc": "0.8"}, {"seed": "1", "auroc": "0.6"}, {"seed": "2", "auroc": "0.9"}]
    assert public_benchmark.over_seeds(rows, "auroc") == "0.800 (2 seeds)"
    # Means of the seeds: .7, .9 and .8; half width 4.303 * .1 / sqrt(3).
    assert public_benchmark.over_seeds([*rows, {"seed": "3", "auroc": "0.8"}], "auroc") == "0.800 [0.552, 1.048]"
    assert public_benchmark.over_seeds(rows[:2], "auroc") == "0.700 (1 seed)"
    assert public_benchmark.over_seeds([], "auroc") == "not measured"


def test_seconds_are_the_median_of_a_methods_runs(tmp_path, monkeypatch):
    runs = [{"key": str(n), "method": "fedavg"} for n in range(3)]
    monkeypatch.setattr(public_benchmark.Runs, "load", lambda name: public_benchmark.Runs(runs, [], []))
    monkeypatch.setattr(public_benchmark, "SECONDS", tmp_path / "seconds.csv")
    for n, total in enumerate((90.0, 20.0, 22.0)):
        (folder := tmp_path / "runs" / str(n)).mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps({"timings": {"total": total}}))
    public_benchmark.note_seconds(tmp_path)
    assert public_benchmark.seconds() == {"fedavg": "22"}
