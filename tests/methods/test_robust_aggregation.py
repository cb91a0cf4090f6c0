"""Median, trimmed mean, Krum and clipping against numpy, scipy and brute force; invariants; refusals."""

import dataclasses
import itertools
import os

import numpy as np
import pytest
import torch
from scipy.stats import trim_mean

from medfl.errors import MedflError
from medfl.messages import Reply
from medfl.methods.coordinate_wise import TrimmedMean
from medfl.methods.core import update_matrix as rows_module
from medfl.methods.core.chain import build_chain
from medfl.methods.core.context import ServerContext
from medfl.methods.core.update_matrix import UpdateMatrix
from medfl.methods.krum import chosen, distances
from medfl.runs.folder import RunFolder
from tests.hand import Hand, play
from tests.toys import toy_run

RULES = ["median", "trimmed_mean", "krum", {"name": "krum", "keep": 3}]
label = {"ids": lambda rule: rule if isinstance(rule, str) else "multi-krum"}


def drawn(sites, values=11, buffers=4, seed=0):
    """f32[K, P] and f32[K, B], neighbours in space so that Krum has something to choose."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(sites, 1)) + rng.normal(size=(sites, values)) * 0.5
    return centres.astype(np.float32), rng.random((sites, buffers)).astype(np.float32) + 1


def combined(rule, updates, buffers, names=None, samples=None):
    """(update, buffers) of one rule as the round loop would call it."""
    link = build_chain([rule]).methods[0]
    names = names or [f"site-{k:02d}" for k in range(len(updates))]
    server = ServerContext(torch.zeros(updates.shape[1]), tuple(sorted(names)), buffers=torch.zeros(buffers.shape[1]))
    server.updates = UpdateMatrix(len(updates), updates.shape[1])
    for k, name in enumerate(names):
        update, statistics = torch.from_numpy(updates[k].copy()), torch.from_numpy(buffers[k].copy())
        server.updates.add(Reply(name, 0, samples=(samples or [1] * len(names))[k], update=update, buffers=statistics))
    found = (
        link.aggregate(server, torch.full_like(server.weights, 77.0)),
        link.aggregate_buffers(server, server.buffers),
    )
    server.updates.close()
    return [vector.numpy() for vector in found]


@pytest.mark.parametrize("sites", [3, 4, 7, 10])
def test_median_is_numpys(sites):
    updates, buffers = drawn(sites)
    found = combined("median", updates, buffers)
    np.testing.assert_allclose(found[0], np.median(updates.astype(float), axis=0), rtol=1e-6)
    np.testing.assert_allclose(found[1], np.median(buffers.astype(float), axis=0), rtol=1e-6)


@pytest.mark.parametrize(("sites", "share"), [(5, 0.2), (7, 0.3), (10, 0.45), (10, 0.1), (9, 0.0)])
def test_trimmed_mean_is_scipys(sites, share):
    updates, buffers = drawn(sites)
    found = combined({"name": "trimmed_mean", "share": share}, updates, buffers)
    np.testing.assert_allclose(found[0], trim_mean(updates.astype(float), share, axis=0), rtol=1e-6)
    np.testing.assert_allclose(found[1], trim_mean(buffers.astype(float), share, axis=0), rtol=1e-6)


def test_a_share_is_what_it_says_whatever_its_last_digit():
    assert 0.29 * 100 < 29
    assert TrimmedMean(share=0.29).cut(100) == 29
    assert [TrimmedMean(share=share).min_replies for share in (0.2, 0.3, 0.1, 0)] == [5, 4, 10, 1]


def brute_krum(updates, byzantine, keep):
    """Blanchard et al. 2017, section 4, site by site."""
    scores = []
    for i, update in enumerate(updates.astype(float)):
        others = sorted(float(np.sum((update - other) ** 2)) for j, other in enumerate(updates) if j != i)
        scores.append(sum(others[: len(updates) - byzantine - 2]))
    return sorted(np.argsort(scores, kind="stable")[:keep])


@pytest.mark.parametrize(("sites", "byzantine", "keep"), [(5, 1, 1), (7, 2, 1), (7, 2, 5), (9, 3, 4), (6, 0, 6)])
def test_krum_is_brute_force(sites, byzantine, keep):
    picked = set()
    for seed in range(8):
        updates, buffers = drawn(sites, seed=seed)
        best = brute_krum(updates, byzantine, keep)
        picked |= set(best)
        found = combined({"name": "krum", "byzantine": byzantine, "keep": keep}, updates, buffers)
        np.testing.assert_allclose(found[0], updates[best].astype(float).mean(0), rtol=1e-6)
        np.testing.assert_allclose(found[1], buffers[best].astype(float).mean(0), rtol=1e-6)
    assert len(picked) > keep or keep == sites


def test_of_equal_scores_the_first_site_is_taken():
    # Five points on a line: 1 and 3 are as close to their two neighbours as each other, and so are 0 and 4.
    line = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0], dtype=torch.float64)
    squares = (line[:, None] - line) ** 2
    assert chosen(squares, 1, 2).tolist() == [1, 2]
    assert chosen(squares, 1, 4).tolist() == [0, 1, 2, 3]
    assert chosen(1.0 - torch.eye(40, dtype=torch.float64), 1, 3).tolist() == [0, 1, 2]


def test_krum_by_hand():
    # On a line at 0, 1, 2, 3, 90 with f = 1: two neighbours each. Scores 1+4, 1+1, 1+1, 1+4: the first of the two at 1.
    points = torch.tensor([0.0, 1.0, 2.0, 3.0, 90.0])
    squares = (points[:, None] - points).square().double()
    assert chosen(squares, 1, 1).tolist() == [1]
    assert chosen(squares, 1, 4).tolist() == [0, 1, 2, 3]


def test_distances_keep_their_digits_far_from_zero():
    """Updates share a long common part; what tells them apart is small."""
    updates, buffers = drawn(5)
    rows = UpdateMatrix(5, updates.shape[1])
    far = (updates * 1e-3 + 1000).astype(np.float32)
    for k in range(5):
        rows.add(Reply(f"{k}", 0, samples=1, update=torch.from_numpy(far[k]), buffers=torch.from_numpy(buffers[k])))
    exact = ((far.astype(float)[:, None] - far.astype(float)) ** 2).sum(2)
    np.testing.assert_allclose(distances(rows).numpy(), exact, rtol=1e-9, atol=1e-15)
    rows.close()


# --------------------------------------------------------------------------------------------------------- invariants


@pytest.mark.parametrize("rule", RULES, **label)
def test_the_order_of_sites_does_not_matter(rule):
    updates, buffers = drawn(5)
    names = [f"site-{k}" for k in range(5)]
    expected = combined(rule, updates, buffers, names)
    for order in itertools.islice(itertools.permutations(range(5)), 0, 120, 17):
        picked = list(order)
        found = combined(rule, updates[picked], buffers[picked], [names[k] for k in order])
        assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("rule", RULES, **label)
def test_identical_updates_give_that_update(rule):
    updates, buffers = (np.repeat(part[:1], 7, axis=0) for part in drawn(1))
    found = combined(rule, updates, buffers)
    assert np.array_equal(found[0], updates[0])
    assert np.array_equal(found[1], buffers[0])


@pytest.mark.parametrize("rule", RULES, **label)
def test_what_a_site_says_of_its_samples_does_not_count(rule):
    updates, buffers = drawn(5)
    expected, found = combined(rule, updates, buffers), combined(rule, updates, buffers, samples=[10**9, 1, 1, 1, 1])
    assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("rule", RULES, **label)
def test_one_site_cannot_pull_the_result_away(rule):
    """However far one update lies, the result stays among the honest ones."""
    updates, buffers = drawn(5)
    for far in (1e3, -1e6):
        wrong = updates.copy()
        wrong[3] = far
        found, _ = combined(rule, wrong, buffers)
        honest = np.delete(updates, 3, axis=0)
        assert (found >= honest.min(0) - 1e-6).all()
        assert (found <= honest.max(0) + 1e-6).all()


def test_blocks_are_the_whole(monkeypatch):
    updates, buffers = drawn(7, values=103)
    whole = [combined(rule, updates, buffers)[0] for rule in RULES]
    monkeypatch.setattr(rows_module, "BLOCK", 10)
    for rule, expected in zip(RULES, whole, strict=True):
        np.testing.assert_allclose(combined(rule, updates, buffers)[0], expected, rtol=1e-6)


def test_rows_lie_in_a_file_that_is_gone_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    game = play(["median"], THREE)
    game.rounds(3)
    assert not list(tmp_path.iterdir())
    assert before is None or len(os.listdir("/proc/self/fd")) == before


def test_a_full_disk_is_one_sentence(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(MedflError, match=r"take 0 MB in .* \(No space left on device\); set TMPDIR"):
        play(["median"], THREE).rounds(1)


# --------------------------------------------------------------------------------------------------- in the round loop

THREE = {name: Hand(2 * k, target=(k / 5, 0.0, 1.0), curvature=(1.0, 1.0, 1.0)) for k, name in enumerate("abc", 1)}
FIVE = THREE | {name: Hand(2, target=(k / 5, 0.0, 0.0), curvature=(1.0, 1.0, 1.0)) for k, name in enumerate("de", 2)}


def test_a_round_of_the_median_by_hand():
    # Two steps of lr .5 on curvature 1 go 3/4 of the way to the target: from 4, 2, -3 with targets (.2|.4|.6, 0, 1) to
    # 1 + .75 (.2|.4|.6), .5, 0. The median ends where b does, whatever the samples.
    assert play(["median"], THREE).rounds(1)[0] == pytest.approx([1.3, 0.5, 0.0], abs=1e-6)


def test_no_share_is_the_unweighted_mean():
    trimmed, _ = toy_run([{"name": "trimmed_mean", "share": 0}], sizes=(16, 16, 16))
    plain, _ = toy_run([], sizes=(16, 16, 16))
    torch.testing.assert_close(trimmed.weights, plain.weights, rtol=0, atol=1e-6)
    torch.testing.assert_close(trimmed.buffers, plain.buffers, rtol=0, atol=1e-6)
    other, _ = toy_run(["median"], sizes=(16, 16, 16))
    assert not torch.allclose(other.weights, plain.weights, atol=1e-5)


def test_a_round_with_too_few_replies_does_not_count():
    game = play(["krum"], FIVE, quorum=0.2, lost={(1, "c")})
    after = game.rounds(3)
    assert [record["counted"] for record in game.records] == [True, False, True]
    assert after[1] == after[0]


@pytest.mark.parametrize(
    ("rule", "sites", "said"),
    [
        ("median", 2, "needs 3 training sites in a round, and there are 2"),
        ({"name": "trimmed_mean", "share": 0.1}, 9, "a share of 0.1 of fewer sites leaves none of them out"),
        ("krum", 4, "n >= 2 byzantine \\+ 3 .* needs 5 training sites in a round, and there are 4"),
        ({"name": "krum", "keep": 6}, 6, "needs 7 training sites"),
    ],
    ids=str,
)
def test_too_few_sites_are_an_error_at_load(rule, sites, said):
    chain = build_chain([rule])
    with pytest.raises(MedflError, match=said):
        chain.async_schedule(sites)
    assert chain.async_schedule(10) is None


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (["median", "krum"], "both replace the mean; keep one of them"),
        (["trimmed_mean", "median"], "both replace the mean"),
        (["median", "fednova"], "fednova is made for a weighted mean of updates"),
        (["krum", "fedbuff"], "fedbuff merges late replies by rules of its own, and krum is not known to hold"),
        (["krum", "fedasync"], "fedasync merges late replies by rules of its own"),
        (
            ["fedgmr", "trimmed_mean"],
            "fedgmr merges sub-models by rules of its own, and trimmed_mean is not known to hold",
        ),
        (["scaffold", "krum"], "scaffold sums further vectors as sites send them, so krum would guard updates"),
        (["scaffold", "norm_clip"], "so norm_clip would guard updates"),
        (["fednova", "norm_clip"], "fednova divides an update by the steps its site says it took"),
        (["fedgmr", "norm_clip"], "fedgmr merges sub-models by rules of its own, and norm_clip is not known to hold"),
        ([{"name": "trimmed_mean", "share": 0.5}], "`share` must be below 0.5"),
        ([{"name": "krum", "byzantine": 1.5}], "`byzantine` must be a whole number"),
        ([{"name": "krum", "keep": 0}], "`keep` must be a number of at least 1"),
        ([{"name": "norm_clip", "bound": 0}], "`bound` must be a number above 0"),
    ],
    ids=str,
)
def test_contradictions_are_one_sentence_at_load(method, said):
    for order in (method, method[::-1]):
        with pytest.raises(MedflError) as caught:
            build_chain(order)
        assert "\n" not in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize("rule", [*RULES, "norm_clip", "norm_guard"], **label)
def test_two_rounds_and_two_after_resuming_are_four(rule, tmp_path):
    method = [rule, "ecgr", {"name": "fedavgm", "momentum": 0.5}]
    whole, first, second = (play(method, FIVE, rounds=4) for _ in range(3))
    expected = whole.rounds(4)
    assert first.rounds(2) == expected[:2]
    files = RunFolder(tmp_path)
    files.save_checkpoint(first.state, [site.memory() for site in first.sites.values()], {})
    state, _ = files.load_checkpoint(second.sites)
    second.federation.state = state
    assert second.rounds(2) == expected[2:]
    assert second.state.json_state == whole.state.json_state


# ----------------------------------------------------------------------------------------------------------- clipping


def clipped(update, buffers, facts=None, bound=None, **link):
    chain = build_chain([{"name": "norm_clip", "bound": bound, **link}])
    server = ServerContext(torch.zeros(2), ("a",), buffers=torch.tensor([1.0]), json_state=facts or {})
    reply = Reply("a", 0, samples=1, update=torch.tensor(update), buffers=torch.tensor(buffers))
    return chain.methods[0].transform_reply(server, reply), server


def test_clipping_by_hand():
    # |(3, 4)| = 5 to a bound of 2; the change of the buffers has no median to be measured by.
    reply, _ = clipped([3.0, 4.0], [9.0], bound=2.0)
    assert reply.update.tolist() == pytest.approx([1.2, 1.6])
    assert reply.buffers.tolist() == [9.0]
    short, _ = clipped([0.3, 0.4], [9.0], bound=2.0)
    assert short.update.tolist() == pytest.approx([0.3, 0.4])


def test_the_adaptive_bound_is_the_median_of_the_last_rounds_times_a_factor():
    # lengths 1, 2, 9 and buffer changes .5, .5, 1: medians 2 and .5, doubled 4 and 1.
    facts = {"norm_clip": [[[1.0, 0.5], [9.0, 0.5]], [[2.0, 1.0]]]}
    reply, server = clipped([3.0, 4.0], [9.0], facts=facts, factor=2.0)
    assert reply.update.tolist() == pytest.approx([2.4, 3.2])
    assert reply.buffers.tolist() == pytest.approx([2.0])
    assert server.round_sums["norm_clip"].tolist() == [[5.0, 8.0]]  # what came in, not what was made of it


def test_a_bound_that_nothing_reaches_is_fedavg():
    method = [{"name": "norm_clip", "bound": 1e6}]
    assert play(method, FIVE).rounds(2) == play([], FIVE).rounds(2)


@pytest.mark.parametrize("method", [[], ["norm_clip"], ["norm_guard"]], ids=str)
def test_a_scaled_update_is_held(method):
    """One of five sends a hundredfold update in round 1: FedAvg is thrown off, the links hold."""
    game, honest = play(method, FIVE, rounds=4), play([], FIVE, rounds=4)
    call = game.federation.transport.call

    def corrupted(sites, request):
        for answer in call(sites, request):
            long = answer.site == "e" and answer.round == 1
            yield dataclasses.replace(answer, update=answer.update * 100) if long else answer

    game.federation.transport.call = corrupted
    apart = torch.dist(torch.tensor(game.rounds(2)[-1]), torch.tensor(honest.rounds(2)[-1]))
    assert apart < 0.5 if method else apart > 3
