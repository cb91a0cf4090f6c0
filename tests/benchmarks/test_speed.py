"""The benchmarks measure what they say, and the page of their figures is that of the committed run."""

import json

import pytest
import torch

from benchmarks import __main__ as cli
from benchmarks import performance
from benchmarks.pages import rewritten
from benchmarks.speed.figure import Figure, interleaved
from benchmarks.speed.steps import one_site
from benchmarks.speed.workload import SMALL, replies, workbench


def test_every_generated_part_of_the_page_is_that_of_the_figures():
    text = performance.PAGE.read_text(encoding="utf-8")
    assert all(f"<!-- {name} -->" in text for name in performance.PARTS)
    assert rewritten(text, performance.PARTS) == text


def test_targets_in_both_directions():
    assert Figure("a", "b", 0.98, target=0.97, at_least=True).met
    assert not Figure("a", "b", 0.96, target=0.97, at_least=True).met
    assert Figure("a", "b", 1.02, target=1.03).met
    assert not Figure("a", "b", 1.04, target=1.03).met
    assert Figure("a", "b", 99.0).met


def test_actions_take_turns():
    seen = []
    interleaved([lambda: seen.append("a"), lambda: seen.append("b")], repeats=3, warm=1)
    assert "".join(seen) == "baabbaab"


def test_rounds_train_and_their_steps_are_timed():
    game = one_site(SMALL, 32, 3, ["ecgr"])
    before = game.federation.state.weights.clone()
    record = game.play()
    assert record["sites"]["site"]["steps"] == 3
    assert not torch.equal(before, game.federation.state.weights)
    assert game.step_seconds() > 0
    assert game.step_seconds() == 0


def test_replies_are_what_the_server_takes():
    bench = workbench(SMALL, [])
    first, second = replies(2, bench)
    assert first.square == pytest.approx(float(first.update.double().square().sum()), rel=1e-5)
    assert not torch.equal(first.update, second.update)


@pytest.mark.parametrize(("value", "status"), [(1.5, 0), (2.5, 1)])
def test_check_compares_writes_and_sets_the_exit_status(tmp_path, monkeypatch, capsys, value, status):
    figure = Figure("mean of updates", "a read", value, target=2.0, detail={"mean_s": 0.25})
    monkeypatch.setattr(cli, "CPU", {"aggregation": lambda repeats: iter([figure])})
    monkeypatch.setattr(cli, "BASELINE", tmp_path / "baseline.json")
    threads = torch.get_num_threads()
    try:
        assert cli.main(["--json", str(tmp_path / "baseline.json")]) == 0
        assert cli.main(["--check", "--only", "aggregation"]) == status
    finally:
        torch.set_num_threads(threads)
    out = capsys.readouterr().out
    assert f"baseline {value:.3f}" in out
    assert ("MISSED" in out) == bool(status)
    written = json.loads((tmp_path / "baseline.json").read_text())
    assert written["figures"][0] == {
        "name": "mean of updates",
        "over": "a read",
        "value": value,
        "target": 2.0,
        "at_least": False,
        "detail": {"mean_s": 0.25},
    }
