"""The attack simulation: its instruments by hand, its tables, and the page that holds them."""

import dataclasses

import numpy as np
import pytest
import torch

from benchmarks import attacks
from benchmarks import attacks_results as results
from benchmarks.attacks_results import Run
from medfl.federation.rounds import Federation
from medfl.federation.transport import InProcess
from medfl.methods.core.chain import build_chain
from tests.hand import Hand, play
from tests.toys import Recorder, toy_store

SITES = {name: Hand(2, target=(k / 5, 0.0, 1.0), curvature=(1.0, 1.0, 1.0)) for k, name in enumerate("abc")}
RUN = Run(5, 1, "sign", "ecgr", 2, 0.9, 0.8, None, 12, 3, 0)


def corrupted(factor):
    def wrapped(sites, _):
        return attacks.Corrupting(InProcess(sites), {"b"}, factor)

    return wrapped


def test_a_factor_of_one_is_honest_and_another_changes_one_sites_update_alone():
    assert play([], SITES, transport=corrupted(1.0)).rounds(2) == play([], SITES).rounds(2)
    # Two steps of lr .5 on curvature 1 go 3/4 of the way: from 4 towards 0, .2, .4 by 3, 2.85, 2.7. b's is turned.
    after = play([], SITES, transport=corrupted(-1.0)).rounds(1)[0]
    assert after[0] == pytest.approx(4 - (3 - 2.85 + 2.7) / 3, abs=1e-6)


def test_flipped_labels():
    store = toy_store("a", 0)
    other = attacks.flipped(store, 3)
    train, rest = store.splits["train"], np.concatenate([store.splits["val"], store.splits["test"]])
    assert np.array_equal(other.labels[train], 2 - store.labels[train])
    assert np.array_equal(other.labels[rest], store.labels[rest])
    assert other.digest != store.digest
    assert np.array_equal(attacks.flipped(other, 3).labels, store.labels)


@pytest.mark.parametrize(("sites", "malicious"), results.SETTINGS)
@pytest.mark.parametrize("method", results.METHODS)
def test_every_method_of_the_table_stands_the_malicious_sites_it_is_told(method, sites, malicious):
    chain = build_chain(attacks.chain_of(method, sites, malicious))
    assert chain.async_schedule(sites) is None
    for link in chain.methods:
        if link.name == "trimmed_mean":
            assert link.cut(sites) == malicious


def test_the_transport_of_an_attack_leaves_failures_alone():
    game = play([], SITES, lost={(0, "b")})
    federation = game.federation
    wrapped = attacks.Corrupting(federation.transport, {"b"}, -1.0)
    records = []
    Federation(federation.config, wrapped, federation.state, [Recorder(records)]).run()
    assert [failure["site"] for failure in records[0]["failures"]] == ["b"]
    assert torch.isfinite(federation.state.weights).all()


# ---------------------------------------------------------------------------------------------- the table and the page


def test_a_table_reads_back_as_it_was_written(tmp_path):
    path = tmp_path / "runs.csv"
    for run in (RUN, dataclasses.replace(RUN, seed=3, auroc=None)):
        attacks.append(path, run)
    assert results.read(path) == [RUN, dataclasses.replace(RUN, seed=3, auroc=None)]
    assert results.read(tmp_path / "none.csv") == []


def test_spread_by_hand():
    assert results.spread([0.9, 0.8, 0.85]) == "85.0 (80.0 to 90.0)"
    assert results.spread([0.9, None, 0.8]) == "85.0 (80.0 to 90.0), 1 lost"
    assert results.spread([None]) == "1 lost"


def test_differences_are_paired_by_seed_under_the_same_attack():
    def run(method, seed, auroc, attack="sign"):
        return dataclasses.replace(RUN, method=method, seed=seed, auroc=auroc, attack=attack)

    base = [run("fedavg", 1, 0.5), run("fedavg", 2, 0.9), run("fedavg", 1, 0.1, "labels")]
    table = results.against_fedavg([*base, run("ecgr", 1, 0.6), run("ecgr", 2, 1.0)], "auroc")
    line = next(line for line in table.splitlines() if line.startswith("| ecgr"))
    assert [cell.strip() for cell in line.strip("|").split("|")] == ["ecgr", "", "", "**+10.0 [+10.0, +10.0]**", ""]


def test_every_run_of_the_table_is_one_of_the_simulation_and_stands_once():
    runs = results.read(results.RUNS)
    wanted = {
        (*setting, attack, method, seed)
        for setting in results.SETTINGS
        for attack in results.ATTACKS
        for method in results.METHODS
        for seed in attacks.SEEDS
    }
    assert len({run.key for run in runs}) == len(runs)
    assert {run.key for run in runs} <= wanted
    assert f"\n{len(runs)} runs of {len(wanted)}.\n" in results.PAGE.read_text(encoding="utf-8")


def test_every_generated_part_of_the_page_is_that_of_the_table():
    text = results.PAGE.read_text(encoding="utf-8")
    assert results.rewritten(text, results.read(results.RUNS)) == text
    with pytest.raises(ValueError, match="0 places for progress"):
        results.rewritten("", [])
