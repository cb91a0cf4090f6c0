"""The benchmarks measure what they say, and the page of their figures is that of the committed run."""

import json

import pytest
import timm
import torch

from benchmarks import __main__ as cli
from benchmarks import performance
from benchmarks.pages import rewritten
from benchmarks.speed import frozen
from benchmarks.speed.figure import Figure, Timing, interleaved
from benchmarks.speed.quietness import LOOPS, Quietness
from benchmarks.speed.steps import LEARN, PASSES, one_site, plain_loop
from benchmarks.speed.stores import SIDE, million
from benchmarks.speed.workload import SMALL, replies, workbench
from medfl.data.store_file import read_store


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


def test_heads_train_on_features_that_are_there(monkeypatch):
    monkeypatch.setattr(frozen, "OF_EACH", 40)
    monkeypatch.setattr(frozen, "SITES", 2)
    game = frozen.heads(["fedlc"])
    before = game.federation.state.weights.clone()
    game.play()
    moved = game.federation.state.weights - before
    assert moved.shape == (frozen.FEATURES * 5 + 5,)
    assert moved.any()


@pytest.mark.parametrize("method", PASSES)
def test_a_plain_loop_of_more_passes_makes_them(method, monkeypatch):
    learning, create = [], timm.create_model

    def watched(*args, **kwargs):
        net = create(*args, **kwargs)
        net.register_forward_hook(lambda *_: learning.append(torch.is_grad_enabled()))
        return net

    monkeypatch.setattr(timm, "create_model", watched)
    plain_loop(SMALL, 32, 2, PASSES[method])()
    assert learning == 2 * [each == LEARN for each in PASSES[method]]


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
    monkeypatch.setattr(Quietness, "look", lambda self: self.walls.append(1.0) or setattr(self, "floor", 1 / LOOPS))
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
        "spread": None,
        "detail": {"mean_s": 0.25},
        "section": "aggregation",
        "load": 1.0,
    }


def test_sections_are_written_one_by_one_beside_those_of_the_same_machine(tmp_path, monkeypatch):
    file = tmp_path / "figures.json"
    values = iter([1.0, 2.0, 3.0, 4.0, 5.0])

    def section(name):
        return lambda repeats: iter([Figure(name, "b", next(values))])

    def stops(repeats):
        yield Figure("never written", "b", 1.0)
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "CPU", {"one": section("one"), "other": section("other"), "last": stops})
    monkeypatch.setattr(cli, "BASELINE", tmp_path / "baseline.json")
    monkeypatch.setattr(Quietness, "look", lambda self: self.walls.append(1.0) or setattr(self, "floor", 1 / LOOPS))

    def written():
        return {figure["name"]: figure["value"] for figure in json.loads(file.read_text())["figures"]}

    threads = torch.get_num_threads()
    try:
        with pytest.raises(KeyboardInterrupt):
            cli.main(["--json", str(file)])
        assert written() == {"one": 1.0, "other": 2.0}
        cli.main(["--json", str(file), "--only", "one"])
        assert written() == {"one": 3.0, "other": 2.0}
        monkeypatch.setattr(cli, "CPU", {"other": section("other")})  # a section that is no longer measured goes
        cli.main(["--json", str(file)])
        assert written() == {"other": 4.0}
        monkeypatch.setattr(cli, "cpu", lambda: "another")
        monkeypatch.setattr(cli, "CPU", {"one": section("one"), "other": section("other")})
        cli.main(["--json", str(file), "--only", "one"])
        assert written() == {"one": 5.0}
    finally:
        torch.set_num_threads(threads)


def test_a_file_that_cannot_take_figures_is_refused_before_they_are_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "CPU", {"one": lambda repeats: pytest.fail("measured")})
    monkeypatch.setattr(cli, "BASELINE", tmp_path / "baseline.json")
    for name, content in {"empty": "", "cut": '{"machine": ', "list": "[]", "other": "{}"}.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(SystemExit):
            cli.main(["--json", str(tmp_path / name)])
        assert "cannot take figures" in capsys.readouterr().err
    before = {"machine": {"cpu": "another"}, "figures": [{"name": "a", "over": "b", "value": 1.0}]}
    cli.BASELINE.write_text(json.dumps(before))
    with pytest.raises(SystemExit):
        cli.main(["--json", str(cli.BASELINE), "--only", "one"])
    assert "is of another machine" in capsys.readouterr().err


def test_figures_of_before_there_were_sections_stay_until_they_are_measured(tmp_path, monkeypatch):
    file = tmp_path / "figures.json"
    old = [{"name": name, "over": "b", "value": 1.0} for name in ("one", "other")]
    file.write_text(json.dumps({"machine": cli.machine(), "figures": old}))
    monkeypatch.setattr(cli, "CPU", {"section": lambda repeats: iter([])})
    cli.keep(file, "section", [Figure("one", "b", 2.0)], 1.0)
    written = {figure["name"]: figure["value"] for figure in json.loads(file.read_text())["figures"]}
    assert written == {"one": 2.0, "other": 1.0}


def test_a_busy_machine_leaves_the_baseline_and_decides_nothing(tmp_path, monkeypatch, capsys):
    baseline, walls = tmp_path / "baseline.json", iter([1.0, 1.0, 1.0, 1.4, 1.4, 1.4, 1.4, 1.4])
    values = iter([1.0, 1.2, 1.2])
    monkeypatch.setattr(cli, "CPU", {"aggregation": lambda repeats: iter([Figure("a", "b", next(values))])})
    monkeypatch.setattr(cli, "BASELINE", baseline)
    look = lambda self: self.walls.append(next(walls)) or setattr(self, "floor", 1 / LOOPS)  # noqa: E731
    monkeypatch.setattr(Quietness, "look", look)
    threads = torch.get_num_threads()
    try:
        assert cli.main(["--json", str(baseline)]) == 0
        written = baseline.read_bytes()
        assert [figure["load"] for figure in json.loads(written)["figures"]] == [1.0]
        assert cli.main(["--json", str(baseline), "--check"]) == 2
        assert baseline.read_bytes() == written
        assert cli.main(["--json", str(tmp_path / "other.json")]) == 0
    finally:
        torch.set_num_threads(threads)
    said = capsys.readouterr().out
    assert "is left as it was of aggregation, since the machine was busy (1.40)" in said
    assert "worse than the baseline: a" in said
    (figure,) = json.loads((tmp_path / "other.json").read_text())["figures"]
    assert "BUSY" in performance.quietness_sentence([figure["load"]])


def test_a_ratio_is_worse_by_more_than_its_pairs_differ():
    fast, slow = Timing.of([1.0, 1.0, 1.0, 1.0]), Timing.of([1.0, 1.1, 1.3, 1.4])
    figure = Figure("a", "b", slow / fast, detail={"slow_s": slow, "fast_s": fast})
    assert figure.spread == pytest.approx((1.025, 1.375))
    assert not figure.worse_than(1.0)
    assert figure.worse_than(0.95)
    rate = Figure("a", "b", fast / slow, at_least=True, detail={"slow_s": slow, "fast_s": fast})
    assert rate.spread == pytest.approx((1 / 1.375, 1 / 1.025), abs=0.03)
    assert rate.worse_than(1.2)
    assert not rate.worse_than(0.9)
    assert not rate.worse_than(None)
    assert Figure("a", "b", 1.2).worse_than(1.1)


def test_the_calibration_loop_is_never_faster_than_its_fastest_piece(monkeypatch):
    monkeypatch.setattr("benchmarks.speed.quietness.LOOPS", 3)
    quietness = Quietness()
    quietness.look()
    quietness.look()
    assert min(quietness.loads) >= 1.0


def test_a_store_of_a_million_is_an_index_over_no_bytes(tmp_path):
    images, problems = read_store(million(tmp_path, patches=100))
    assert images.shape == (100, SIDE, SIDE, 3)
    assert not problems
