"""The arms beside the federation: each site alone, all data in one place. Whole runs of them and of FedGMR."""

import json

import numpy as np
import pytest
import torch

from medfl.cli.console_tables import print_outcome
from medfl.cli.terminal import Terminal
from medfl.errors import MedflError
from medfl.federation.baselines import Centralised, LocalOnly, own_model
from medfl.federation.rounds import Federation
from medfl.federation.transport import InProcess
from medfl.federation.virtual_time import SiteSpeed
from medfl.messages import POOL
from medfl.methods.core.chain import build_chain
from medfl.methods.core.method_table import method_table
from medfl.metrics.group_figures import held_out_figures
from medfl.pipeline.build_site import pool, pooled_site
from medfl.pipeline.load_pipeline import dump_pipeline, load_pipeline
from medfl.pipeline.register_run import register_run
from medfl.pipeline.run import resume, run
from medfl.pipeline.trained_model import find_model
from medfl.runs.progress import ProgressCallbacks
from medfl.runs.records import read_run
from medfl.site.site import Site
from tests.hand import Lossy, play
from tests.tiny import write_tiny
from tests.toys import Recorder, toy_bench, toy_federation, toy_sites, toy_store, toy_work


def as_baseline(kind, federation, extra=None):
    """The same plan, sites and state under the schedule of a baseline."""
    records = []
    transport = InProcess(federation.transport.sites | (extra or {}))
    return Federation(federation.config, transport, federation.state, [Recorder(records)], schedule=kind()), records


# ----------------------------------------------------------------------------------------------------------- local_only


def test_each_site_alone_is_plain_training():
    bench = toy_bench(backbone="test_resnet")
    sites = toy_sites(bench, sizes=(16, 8))
    start = bench.model.weights()
    alone, records = as_baseline(LocalOnly, toy_federation(bench, sites, rounds=3)[0])
    state = alone.run()
    for name in sites:
        solo = toy_federation(bench, {name: sites[name]}, rounds=3)
        solo[0].state.weights, solo[0].state.buffers = start, state.buffers
        end = solo[0].run()
        for mine, plain in zip(own_model(state, name), (end.weights, end.buffers), strict=True):
            torch.testing.assert_close(mine, plain, rtol=0, atol=1e-6)
        figures = [r["sites"][name]["val"]["loss"] for r in solo[1]]
        assert [r["sites"][name]["val"]["loss"] for r in records] == pytest.approx(figures, abs=1e-5)
    assert torch.equal(state.weights, start)
    assert not torch.equal(*(own_model(state, name)[0] for name in sites))
    assert all(r["update"] is None for r in records)
    assert records[0]["sites"]["site-0"]["bytes_down"] == records[0]["sites"]["site-0"]["bytes_up"] == 0


def test_a_site_that_fails_alone_stays_where_it_was():
    p = play(lost={(1, "far")}, transport=Lossy, site_speeds={n: SiteSpeed(1.0, 1.0, 0.5) for n in ("near", "far")})
    alone, records = as_baseline(LocalOnly, p.federation)
    alone.transport = p.federation.transport
    after = []
    for _ in range(3):
        records.append(alone.run_round())
        after.append([own_model(alone.state, name)[0].tolist() for name in ("near", "far")])
    assert after[1][1] == after[0][1] != after[2][1]
    assert after[1][0] != after[0][0]
    # Two steps of half a second and no line.
    assert [r["virtual_seconds"] for r in records] == pytest.approx([1.0, 2.0, 3.0])


# ---------------------------------------------------------------------------------------------------------- centralised


def test_pooled_data_is_trained_on_like_one_sites():
    sizes = (16, 8)
    bench = toy_bench()
    sites = toy_sites(bench, sizes=sizes)
    pooled = pooled_site(sites)
    assert pooled.training.steps(len(pooled.store.splits["train"])) == 2 + 1
    central, records = as_baseline(Centralised, toy_federation(bench, sites, rounds=3)[0], {POOL: pooled})
    start = central.state.weights
    end = central.run().weights
    stores = [toy_store(f"site-{i}", i, train=n) for i, n in enumerate(sizes)]
    images = np.concatenate([store.images[store.splits["train"]] for store in stores])
    one = toy_store(POOL, 0, train=24)
    np.copyto(one.images[:24], images)
    one.labels[:24] = np.concatenate([store.labels[store.splits["train"]] for store in stores])
    site = Site(POOL, "train", one, toy_work(local_steps=3), bench)
    solo, _ = toy_federation(bench, {POOL: site}, rounds=3)
    solo.state.weights = start
    torch.testing.assert_close(end, solo.run().weights, rtol=0, atol=1e-6)
    assert records[0]["participants"] == [POOL]
    assert records[0]["sites"][POOL] == records[0]["sites"][POOL] | {"role": "pool", "steps": 3, "samples": 24}
    assert set(records[0]["sites"]) == {"site-0", "site-1", POOL}
    assert "val" in records[0]["sites"]["site-0"]
    assert "samples" not in records[0]["sites"]["site-0"]


def test_the_pool_keeps_source_groups_apart_and_takes_training_patches_only():
    stores = [toy_store("a", 1, train=6), toy_store("b", 2, train=4)]
    pooled = pool(stores)
    assert len(pooled.labels) == 10
    assert len(set(pooled.groups.tolist())) == 3 + 2
    np.testing.assert_array_equal(pooled.images[6:], stores[1].images[:4])
    assert list(pooled.splits) == ["train"]


# ------------------------------------------------------------------------------------------------ what they refuse


@pytest.mark.parametrize("baseline", ["local_only", "centralised"])
def test_a_baseline_stands_alone(small, baseline):
    for other in ("fedprox", "ecgr", "fedgmr", "scaffold", "fedasync"):
        for keys in ([f"method=[{other}, {baseline}]"], [f"method=[{other}]", f"baseline={baseline}"]):
            with pytest.raises(MedflError, match=f"{baseline}.*{other} has nothing to act on"):
                load_pipeline(small, keys)
    with pytest.raises(MedflError, match="nothing to act on"):
        load_pipeline(small, ["method=[local_only, centralised]"])
    assert load_pipeline(small, [f"baseline={baseline}"]).baseline == baseline
    assert load_pipeline(small, ["method=[ecgr]"]).baseline is None
    with pytest.raises(MedflError, match="no method"):
        build_chain([baseline])


def test_the_listing_says_what_goes_with_what():
    goes = {row[0]: row[3] for row in method_table()}
    assert not goes.keys() & {"local_only", "centralised"}
    assert goes["ecgr"] == "all but adaptive_ecgr"
    kept = "fedbn, fedlc, fedlesam, fedprox, fedsam, logit_adjustment, moon, norm_clip, norm_guard, scaffold"
    assert goes["fedasync"] == f"adaptive_ecgr, ecgr, {kept}"
    with_fedgmr = "adaptive_ecgr, ecgr, fedadagrad, fedadam, fedavgm, fedbn, fedlc, fedprox, fedyogi, logit_adjustment"
    assert goes["fedgmr"] == with_fedgmr
    parameters = {row[0]: row[1] for row in method_table()}
    assert "patience=5" in parameters["fedgmr"]


def test_held_out_figures_are_means_over_the_models():
    def entry(role, auroc, ece=0.1):
        return {"role": role, "auroc": auroc, "ece": ece}

    measured = {
        "a": {"a": entry("train", 1.0), "x": entry("held_out", 0.9), "y": entry("held_out", 0.5, 0.3)},
        "b": {"b": entry("train", 1.0), "x": entry("held_out", 0.7), "y": entry("held_out", None, 0.5)},
    }
    figures = held_out_figures(measured)
    assert figures["sites"] == ["x", "y"]
    assert figures["mean_auroc"] == pytest.approx((0.8 + 0.5) / 2)
    assert (figures["worst_auroc"], figures["worst_site"]) == (0.5, "y")
    assert (figures["mean_ece"], figures["worst_ece"]) == pytest.approx((0.25, 0.4))
    assert held_out_figures({"a": {"a": entry("train", 1.0)}})["mean_auroc"] is None


# ----------------------------------------------------------------------------------------------------------- whole runs

SITES = {
    "train": [
        {"name": "slow", "patches": 60, "density": 0.3, "link": {"down": 1, "up": 0.5, "seconds_per_step": 1}},
        {"name": "swift", "patches": 60, "link": {"down": 40, "up": 20, "seconds_per_step": 0.1, "jitter": 0.2}},
    ],
    "held_out": [{"name": "far", "patches": 24}],
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Path of a pipeline whose sites state links and densities."""
    return write_tiny(tmp_path_factory.mktemp("pipelines"), sites=SITES, training={"rounds": 3, "local_steps": 1})


def test_local_only_from_file_to_matrix(small, tmp_path, capsys):
    outcome = run(load_pipeline(small, ["baseline=local_only"]), tmp_path / "alone")
    matrix = outcome.summary["cross_site_auroc"]
    assert {a: set(row) for a, row in matrix.items()} == {a: {"slow", "swift", "far"} for a in ("slow", "swift")}
    assert matrix["slow"]["slow"] == outcome.summary["sites"]["slow"]["auroc"]
    assert set(outcome.summary["sites"]) == {"slow", "swift"}
    mean = (matrix["slow"]["far"] + matrix["swift"]["far"]) / 2
    assert outcome.summary["held_out"]["mean_auroc"] == pytest.approx(mean)
    assert "auroc_ci" in outcome.summary["sites"]["slow"]
    print_outcome(Terminal(), outcome.summary, "run", "off")
    shown = capsys.readouterr().out
    assert "trained at" in shown
    assert f"{matrix['swift']['slow']:.3f}" in shown
    assert not outcome.folder.model.exists()
    for use in (lambda: find_model(str(outcome.folder.path)), lambda: register_run(outcome.folder.path, name="m")):
        with pytest.raises(MedflError, match="one model a site"):
            use()


@pytest.mark.parametrize("entry", ["local_only", "{name: local_only}"])
def test_the_old_spelling_loads_with_one_notice(small, tmp_path, entry):
    old = load_pipeline(small, [f"method=[{entry}]", "training.rounds=1"])
    new = load_pipeline(small, ["baseline=local_only", "training.rounds=1"])
    assert (old.baseline, old.method) == ("local_only", [])
    assert dump_pipeline(old) == dump_pipeline(new)
    assert old.notices == ("`method: [local_only]` is now written `baseline: local_only`",)
    assert new.notices == ()
    lines: list[str] = []
    folder = run(old, tmp_path / "run", ProgressCallbacks(say=lines.append)).folder
    assert lines.count(old.notices[0]) == 1
    assert load_pipeline(folder.pipeline) == new
    assert folder.read_summary()["method"] == "local_only"
    assert folder.read_summary()["chain"] == [{"name": "local_only"}]


def test_a_run_folder_in_the_old_spelling_is_read(tmp_path):
    (tmp_path / "pipeline.yaml").write_text("method: [centralised]\n")
    assert read_run(tmp_path).method == "centralised"
    assert read_run(tmp_path).pipeline == {"method": [], "baseline": "centralised"}


def test_centralised_is_an_ordinary_model(small, tmp_path):
    outcome = run(load_pipeline(small, ["baseline=centralised", "training.rounds=1"]), tmp_path / "pooled")
    assert set(outcome.summary["sites"]) == {"slow", "swift", "far"}
    assert outcome.folder.model.is_file()
    assert outcome.folder.records()[0]["sites"][POOL]["steps"] == 2
    assert outcome.summary["virtual_seconds"] is None


@pytest.mark.parametrize("method", ["baseline=local_only", "method=[{name: fedgmr, patience: 1}]"])
def test_interrupted_and_resumed_is_the_same_run(small, tmp_path, method):
    class Stop(Exception):
        pass

    def watch(record, rounds):
        if record["round"] == 1:
            raise Stop

    pipeline = load_pipeline(small, [method])
    whole = run(pipeline, tmp_path / "whole")
    with pytest.raises(Stop):
        run(pipeline, tmp_path / "part", ProgressCallbacks(round=watch))
    facts = json.loads((tmp_path / "part" / "checkpoint" / "state.json").read_text())
    assert bool(facts["flights"]) == ("fedgmr" in method)
    again = resume(tmp_path / "part")
    assert again.folder.rounds.read_bytes() == whole.folder.rounds.read_bytes()
    assert again.summary["sites"] == whole.summary["sites"]
    assert again.summary["virtual_seconds"] == whole.summary["virtual_seconds"] > 0
    seconds = [record["virtual_seconds"] for record in whole.folder.records()]
    assert seconds == sorted(seconds)
    sent = {name: whole.folder.records()[0]["sites"][name]["bytes_down"] for name in ("slow", "swift")}
    assert (0 < sent["slow"] < sent["swift"]) == ("fedgmr" in method)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["baseline=local_only", "registry={name: m}"], ["`registry`", "local_only"]),
        (["method=[local_only]", "registry={name: m}"], ["`registry`", "local_only"]),
        (["baseline=local_only", "select={metric: val_mean_auroc, mode: max}"], ["`select`", "local_only"]),
        (["baseline=centralised", "training.sites_per_round=1"], ["sites_per_round", "centralised"]),
        (["method=[centralised, fedprox]"], ["centralised", "fedprox"]),
        (["baseline=centralized"], ["`baseline`", "centralised"]),
    ],
)
def test_refusals_at_load(small, overrides, said):
    with pytest.raises(MedflError) as caught:
        load_pipeline(small, overrides)
    assert all(part in str(caught.value) for part in ["tiny.yaml", *said]), caught.value
    assert "\n" not in str(caught.value)
