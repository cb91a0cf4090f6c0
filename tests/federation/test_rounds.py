"""The round loop: aggregation, order, failures, quorum, selection, records."""

import math

import pytest
import torch

from medfl.data.patch_store import PatchStore
from medfl.errors import RunFailed
from medfl.federation import aggregation
from medfl.federation.aggregation import CHUNK, TOGETHER, WeightedMean
from medfl.federation.rounds import Federation
from medfl.federation.schedule import Synchronous
from medfl.federation.selection import selection_value
from medfl.federation.server_state import FederationConfig, ServerState
from medfl.messages import Failure, Reply, TrainRequest
from medfl.methods.core.chain import build_chain
from medfl.metrics.stability import round_stability
from medfl.model import disk_vector
from medfl.site.site import Site
from tests.toys import Recorder, toy_bench, toy_federation, toy_run, toy_sites, toy_store, toy_work


class Script:
    """A transport that answers with prepared updates: {site: (samples, update)} or a Failure reason."""

    def __init__(self, answers):
        self.answers = answers
        self.requests = []

    def call(self, sites, request):
        for name in sites:
            message = request(name)
            self.requests.append(message)
            answer = self.answers[name]
            if isinstance(answer, str):
                yield Failure(name, message.round, answer)
            else:
                samples, update, steps = (*answer, 1)[:3]
                metrics = {"val": {"auroc": 0.5, "loss": 1.0}} if message.splits else {}
                yield Reply(
                    name,
                    message.round,
                    samples=samples if isinstance(message, TrainRequest) else 0,
                    steps=steps,
                    update=torch.tensor(update) if isinstance(message, TrainRequest) else None,
                    buffers=torch.zeros(0) if isinstance(message, TrainRequest) else None,
                    train_loss=1.0 if isinstance(message, TrainRequest) else None,
                    metrics=metrics,
                )


def scripted(answers, rounds=1, method=(), **plan):
    """An answer is (samples, update), (samples, update, steps) or the reason of a failure."""
    names = tuple(answers)
    settings = {"train_sites": names, "held_out_sites": (), "rounds": rounds, "seed": 0, "stages": {}} | plan
    state = ServerState(0, torch.tensor([1.0, 2.0, 3.0]), torch.zeros(0))
    records = []
    transport = Script(answers)
    return (
        Federation(FederationConfig(**settings), transport, state, [Recorder(records)], build_chain(method)),
        records,
        transport,
    )


def test_weighted_mean_and_drift_by_hand():
    # p = 1/4, 3/4; D = (1, 0, 0)/4 + 3 (0, 1, 0)/4 = (.25, .75, 0); |D|^2 = .625; sum p |D_i|^2 = 1.
    federation, records, _ = scripted({"a": (10, [1.0, 0.0, 0.0]), "b": (30, [0.0, 1.0, 0.0])})
    state = federation.run()
    torch.testing.assert_close(state.weights, torch.tensor([0.75, 1.25, 3.0]))
    assert records[0]["update"]["mean_sq"] == pytest.approx(1.0)
    assert records[0]["update"]["sq"] == pytest.approx(0.625)
    assert records[0]["update"]["cosine"] is None
    assert records[1]["update"] is None
    assert records[1]["evaluated"]


@pytest.mark.parametrize(
    "method",
    [
        ["fednova"],
        [{"name": "norm_clip", "bound": 0.25}],
        [{"name": "fedavgm", "lr": 0.5}],
        [{"name": "fedbuff", "buffer": 1}],
        ["median"],
        [{"name": "trimmed_mean", "share": 0.34}],
        [{"name": "dp", "noise": 9.0, "clip": 0.1, "seeded": True}],
    ],
)
def test_drift_and_coherence_are_of_the_updates_as_sent_whatever_the_method_makes_of_them(method):
    """p = 1/4, 3/4 of patches (the third site has one of a million): as by hand above, |D|^2 = .625 of 1.

    After FedNova's rescaling |D|^2 would be 3.25^2 (1/16 + 9/256) = 1.03, a coherence above 1.
    """
    answers = {"a": (250_000, [1.0, 0.0, 0.0], 1), "b": (750_000, [0.0, 1.0, 0.0], 4), "c": (1, [0.0, 0.0, 0.0], 1)}
    federation, records, _ = scripted(answers, method=method)
    state = federation.run()
    assert not torch.allclose(state.weights, torch.tensor([0.75, 1.25, 3.0]))
    assert records[0]["update"]["mean_sq"] == pytest.approx(1.0, rel=1e-5)
    assert records[0]["update"]["sq"] == pytest.approx(0.625, rel=1e-5)
    figures = round_stability(records[0])
    assert figures["coherence"] == pytest.approx(0.625, rel=1e-5)
    assert figures["drift"] == pytest.approx(math.sqrt(0.6), rel=1e-5)


def test_cosine_of_successive_updates():
    federation, records, _ = scripted({"a": (10, [1.0, 0.0, 0.0])}, rounds=2)
    federation.run()
    assert records[1]["update"]["cosine"] == pytest.approx(1.0)


def test_inertia_per_stage_by_hand():
    bench = toy_bench()
    federation, records = toy_federation(bench, toy_sites(bench), rounds=1)
    before = bench.model.weights()
    after = federation.run().weights
    for stage, slots in bench.model.layout.stages().items():
        rows = torch.cat([torch.arange(s.start, s.start + s.numel) for s in slots])
        if before[rows].norm() == 0:
            assert records[0]["update"]["inertia"][stage] is None
        else:
            expected = float((after - before)[rows].norm() / before[rows].norm())
            assert records[0]["update"]["inertia"][stage] == pytest.approx(expected, rel=1e-3)


def test_the_order_of_sites_does_not_matter():
    forward, first = toy_run()
    bench = toy_bench()
    sites = dict(reversed(toy_sites(bench).items()))
    federation, second = toy_federation(bench, sites)
    assert torch.equal(federation.run().weights, forward.weights)
    assert first == second


def test_two_runs_are_identical_and_seeds_differ():
    one, first = toy_run(["ecgr"])
    two, second = toy_run(["ecgr"])
    assert torch.equal(one.weights, two.weights)
    assert first == second
    other, _ = toy_run(["ecgr"], work=toy_work(seed=4))
    assert not torch.equal(one.weights, other.weights)


def test_stopping_and_going_on_is_the_same_run():
    whole, records = toy_run(["ecgr"], rounds=4)
    bench = toy_bench(["ecgr"])
    sites = toy_sites(bench)
    federation, first = toy_federation(bench, sites, rounds=4)
    for _ in range(2):
        first.append(federation.run_round())
    rest, second = toy_federation(bench, sites, state=federation.state, rounds=4)
    assert torch.equal(rest.run().weights, whole.weights)
    assert first + second == records


def test_a_failing_site_is_named_and_the_round_goes_on():
    federation, records, _ = scripted({"a": (10, [1.0, 0.0, 0.0]), "b": "it rained"})
    state = federation.run()
    assert records[0]["failures"] == [{"site": "b", "reason": "it rained"}]
    assert records[0]["counted"]
    torch.testing.assert_close(state.weights, torch.tensor([0.0, 2.0, 3.0]))
    assert state.accepted == {"a": 0}


def test_without_a_quorum_the_model_stays_and_the_run_stops_after_three_rounds():
    federation, records, _ = scripted({"a": (10, [1.0, 0.0, 0.0]), "b": "x", "c": "y"}, rounds=9, quorum=0.5)
    with pytest.raises(RunFailed, match=r"3 rounds in a row.*b: x; c: y"):
        federation.run()
    assert [r["counted"] for r in records] == [False] * 3
    assert federation.state.weights.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("update", "reason"), [([math.nan, 0.0, 0.0], "not finite"), ([1.0, 0.0], "2 values, the model 3")]
)
def test_bad_updates_are_refused_by_name(update, reason):
    federation, records, _ = scripted({"a": (10, [1.0, 0.0, 0.0]), "b": (10, update)})
    federation.run()
    assert records[0]["failures"][0]["site"] == "b"
    assert reason in records[0]["failures"][0]["reason"]
    assert federation.state.weights.tolist() == [0.0, 2.0, 3.0]


def test_a_diverging_site_is_a_named_failure():
    bench = toy_bench()
    sites = toy_sites(bench)
    sites["site-1"] = Site("site-1", "train", toy_store("site-1", 1), toy_work(lr=1e30), bench)
    federation, records = toy_federation(bench, sites)
    state = federation.run()
    assert [f["site"] for f in records[0]["failures"]] == ["site-1"]
    assert "round 0" in records[0]["failures"][0]["reason"]
    assert torch.isfinite(state.weights).all()


def test_an_alien_exception_does_not_quote_its_text():
    class Broken(Site):
        def handle(self, request):
            raise OSError("/home/patient-17/slide.png")

    bench = toy_bench()
    sites = toy_sites(bench)
    sites["site-2"] = Broken("site-2", "train", toy_store("site-2", 1), toy_work(), bench)
    _, records = (f := toy_federation(bench, sites))[0].run(), f[1]
    assert records[0]["failures"] == [{"site": "site-2", "reason": "OSError at the site"}]


def test_sites_per_round_is_seeded_and_everyone_is_measured():
    federation, records, _ = scripted({c: (1, [0.0, 0.0, 0.1]) for c in "abcde"}, rounds=6, sites_per_round=2)
    federation.run()
    drawn = [tuple(r["participants"]) for r in records[:-1]]
    assert all(len(d) == 2 for d in drawn)
    assert len(set(drawn)) > 1
    assert all(set(r["sites"]) == set("abcde") for r in records)
    again, more, _ = scripted({c: (1, [0.0, 0.0, 0.1]) for c in "edcba"}, rounds=6, sites_per_round=2)
    again.run()
    assert [tuple(r["participants"]) for r in more[:-1]] == drawn


def test_evaluate_every_measures_rarely_but_always_at_the_end():
    federation, records, _ = scripted({"a": (1, [0.0, 0.0, 0.1])}, rounds=5, evaluate_every=2)
    federation.run()
    assert [r["evaluated"] for r in records] == [True, False, True, False, True, True]


def test_held_out_sites_are_not_called_unless_monitored():
    bench = toy_bench()
    sites = toy_sites(bench)
    sites["far"] = Site("far", "held_out", toy_store("far", 9, train=0), toy_work(), bench)
    federation, records = toy_federation(bench, sites)
    plain = federation.run().weights
    assert all("far" not in r["sites"] for r in records)
    bench = toy_bench()
    sites = toy_sites(bench) | {"far": Site("far", "held_out", sites["far"].store, toy_work(), bench)}
    federation, records = toy_federation(bench, sites, held_out_every=2)
    assert torch.equal(federation.run().weights, plain)
    assert ["far" in r["sites"] for r in records] == [True, False, True]
    assert "test" in records[0]["sites"]["far"]


def test_selection_reads_training_sites_validation_only():
    sites = {
        "a": {"role": "train", "val": {"auroc": 0.8, "loss": 1.0}},
        "b": {"role": "train", "val": {"auroc": None, "loss": 3.0}},
        "c": {"role": "train", "val": {"auroc": 0.6, "loss": 2.0}},
        "h": {"role": "held_out", "test": {"auroc": 1.0, "loss": 0.0}},
    }
    assert selection_value("val_mean_auroc", sites) == pytest.approx(0.7)
    assert selection_value("val_worst_auroc", sites) == 0.6
    assert selection_value("val_mean_loss", sites) == 2.0


def test_the_best_round_is_kept():
    bench = toy_bench()
    federation, records = toy_federation(bench, toy_sites(bench), rounds=3, select=("val_mean_loss", "min"))
    state = federation.run()
    losses = [selection_value("val_mean_loss", r["sites"]) for r in records]
    assert state.best[0] == losses.index(min(losses))
    assert state.best[1] == min(losses)


def test_bytes_are_those_of_the_vectors():
    bench = toy_bench(["ecgr"])
    federation, records = toy_federation(bench, toy_sites(bench), rounds=1)
    federation.run()
    expected = 4 * (bench.model.layout.size + bench.model.buffer_layout.size)
    entry = records[0]["sites"]["site-0"]
    assert entry["bytes_down"] == entry["bytes_up"] == expected
    assert records[1]["sites"]["site-0"]["bytes_up"] == 0


def test_changing_test_labels_changes_nothing_before_the_final_evaluation():
    plain, records = toy_run()
    bench = toy_bench()
    sites = toy_sites(bench)
    for site in sites.values():
        labels = site.store.labels.copy()
        labels[site.store.splits["test"]] = 0
        changed = {k: getattr(site.store, k) for k in ("site", "images", "groups", "splits", "digest")}
        site.store = PatchStore(**changed, labels=labels)
    federation, other = toy_federation(bench, sites)
    assert torch.equal(federation.run().weights, plain.weights)
    assert records == other


@pytest.mark.parametrize("count", [1, TOGETHER, TOGETHER + 2, 2 * TOGETHER])
def test_updates_added_together_are_those_added_one_by_one(count, monkeypatch):
    """Waiting updates are folded in blocks; no value may be summed in another order, none that was there be counted."""
    monkeypatch.setattr(torch, "empty", lambda *shape: torch.full(shape, torch.nan))
    monkeypatch.setattr(torch, "empty_like", lambda like: torch.full_like(like, torch.nan))
    generator = torch.Generator().manual_seed(1)
    size = CHUNK + 1000
    state = ServerState(0, torch.zeros(size), torch.zeros(3))
    fold, expected, square = WeightedMean(state), torch.zeros(size), 0.0
    for turn in range(2):
        fold.reset()
        expected.zero_()
        for k in range(1, count + 1):
            update = torch.randn(size, generator=generator)
            fold.add(Reply(f"s{k}", turn, samples=k, update=update, buffers=torch.full((3,), float(k))))
            expected.add_(update, alpha=k)
            square += k * float(update.double().square().sum())
        samples = sum(range(1, count + 1))
        mean, buffers, mean_square = fold.finish()
        assert torch.equal(mean, expected / samples)
        assert buffers[0] == pytest.approx(sum(k * k for k in range(1, count + 1)) / samples)
        if turn == 0:
            assert mean_square == pytest.approx(square / samples, rel=1e-5)


@pytest.mark.parametrize("method", [[], ["fedavgm"], ["fedbn"], ["scaffold"]])
def test_large_vectors_in_files_and_updates_that_do_not_wait_change_no_number(monkeypatch, method):
    plain, records = toy_run(method)
    monkeypatch.setattr(disk_vector, "LARGE", 0)
    monkeypatch.setattr(aggregation, "WAITING", 0)
    state, other = toy_run(method)
    assert torch.equal(state.weights, plain.weights)
    assert torch.equal(state.previous, plain.previous)
    assert records == other


def test_a_model_that_is_not_finite_stops_the_run_before_it_is_written():
    """What a server's step makes of finite replies: the checkpoint, which callbacks write, keeps the model before."""

    class Overflows(Synchronous):
        def advance(self, federation, progress):
            federation.state.weights = federation.state.weights * float("inf")

    federation, records, _ = scripted({"a": (1, [1.0, 1.0, 1.0])}, rounds=3)
    federation.schedule = Overflows()
    with pytest.raises(RunFailed, match="no longer finite after round 0"):
        federation.run()
    assert records == []


@pytest.mark.parametrize(("patience", "last"), [(1, 2), (2, 3), (3, 4), (5, 6), (9, 9), (None, 9)])
def test_a_figure_that_stands_still_closes_the_run(patience, last):
    # The scripted AUROC is always 0.5, so round 0 stays the best; the round after the last wait evaluates only.
    plan = {"select": ("val_mean_auroc", "max"), "patience": patience}
    federation, records, transport = scripted({"a": (10, [1.0, 0.0, 0.0])}, rounds=9, **plan)
    state = federation.run()
    assert [record["round"] for record in records] == list(range(last + 1))
    assert records[-1]["participants"] == []
    assert not isinstance(transport.requests[-1], TrainRequest)
    assert state.best[0] == 0
    assert state.closing == (None if last == 9 else last)


def test_a_better_round_starts_the_wait_anew_and_unmeasured_rounds_do_not_count():
    values = iter([0.5, 0.6, 0.6, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7])
    plan = {"select": ("val_mean_auroc", "max"), "patience": 3, "evaluate_every": 2}
    federation, records, transport = scripted({"a": (10, [1.0, 0.0, 0.0])}, rounds=40, **plan)
    answer = transport.call

    def call(sites, request):
        for reply in answer(sites, request):
            if "val" in reply.metrics:
                reply.metrics["val"]["auroc"] = next(values)
            yield reply

    transport.call = call
    state = federation.run()
    # Measured in rounds 0, 2, 4, 6 (the best), 8, 10: there it is four rounds old, so round 11 closes.
    assert state.best[0] == 6
    assert records[-1]["round"] == 11
