"""The virtual clock and the asynchronous schedule: hand-computed merges, resume in mid-flight, losses, refusals."""

import dataclasses
import math
import statistics
import threading
import time
from concurrent.futures import wait

import pytest
import torch
import yaml

from medfl.engines.remote.codec import Bounds, pack, unpack_request
from medfl.engines.remote.remote_transport import NoAnswer, Remote
from medfl.errors import MedflError, RunFailed
from medfl.federation.asynchronous import SimulatedAsync, WallClockAsync
from medfl.federation.rounds import Federation
from medfl.federation.virtual_time import SiteSpeed, closing_time, jitter_seed
from medfl.messages import TrainRequest
from medfl.methods.core.chain import build_chain
from medfl.pipeline.load_pipeline import load_pipeline, load_site
from medfl.pipeline.run import run
from medfl.runs.folder import RunFolder
from medfl.tracking.metric_names import federation_round
from tests.hand import PAIR, Absent, Hand, Lossy, play

# The three weights are 12 bytes: at 96e-6 Mbit/s a second, at 48e-6 two. Two steps: near 1 + 1 + 2 = 4 s in all,
# far 1 + 5 + 2 = 8 s.
NEAR, FAR = SiteSpeed(96e-6, 48e-6, 0.5), SiteSpeed(96e-6, 48e-6, 2.5)
PACES = {"near": NEAR, "far": FAR}
START = torch.tensor([4.0, 2.0, -3.0])


def asynchronous(method, site_speeds=PACES, evaluate_every=100, **kwargs):
    """The hand-made federation under the asynchronous schedule."""
    p = play(method, site_speeds=site_speeds, evaluate_every=evaluate_every, **kwargs)
    before = p.federation
    p.federation = Federation(before.config, before.transport, p.state, chain=before.chain, schedule=SimulatedAsync())
    return p


def near_end(w):
    """Where near ends after two steps of lr 1/2 from w: curvature (1, .4, .2), target (0, 0, 1)."""
    target, left = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.25, 0.64, 0.81])
    return target + left * (w - target)


def far_end(w):
    """Likewise far: curvature (.2, 1, .4), target (1, 0, 0)."""
    target, left = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.81, 0.25, 0.64])
    return target + left * (w - target)


# ---------------------------------------------------------------------------------------------------------- the clock


def test_seconds_by_hand():
    # 2.5 MB down at 20 Mbit/s is 1 s, 5 MB up at 5 Mbit/s is 8 s, 30 steps of .1 s are 3 s.
    assert SiteSpeed(20, 5, 0.1).seconds(2_500_000, 5_000_000, 30) == pytest.approx(12.0)
    assert (NEAR.seconds(12, 12, 2), FAR.seconds(12, 12, 2)) == pytest.approx((4.0, 8.0))


def test_jitter_is_lognormal_and_drawn_by_run_round_and_site():
    pace = SiteSpeed(1.0, 1.0, 1.0, jitter=0.3)
    draws = [math.log(pace.seconds(0, 0, 1, jitter_seed(0, t, "a"))) for t in range(2000)]
    assert statistics.mean(draws) == pytest.approx(0.0, abs=0.03)
    assert statistics.stdev(draws) == pytest.approx(0.3, abs=0.02)
    seeds = {jitter_seed(run, t, site) for run in (0, 1) for t in (0, 1) for site in "ab"}
    assert len(seeds) == 8


def test_closing_time():
    assert closing_time([7.0, 3.0, 5.0], 2, 0.5) == 5.5
    assert closing_time([7.0], 3, 0.0) == 7.0


def test_sites_per_round_bounds_the_sites_at_work_and_is_seeded():
    drawn = []
    for _ in range(2):
        p = play(["fedasync"], site_speeds=PACES, sites_per_round=1, rounds=8)
        p.rounds(8)
        drawn.append([r["participants"] for r in p.records])
    assert drawn[0] == drawn[1]
    assert all(len(sites) == 1 for sites in drawn[0])  # the one at work arrives, then one is drawn anew
    assert {site for sites in drawn[0] for site in sites} == {"near", "far"}


def test_virtual_seconds_of_synchronous_rounds_are_those_of_the_slowest():
    p = play(site_speeds=PACES)
    p.rounds(2)
    assert [r["virtual_seconds"] for r in p.records] == pytest.approx([8.0, 16.0])
    assert federation_round(p.records[1])["virtual_seconds"] == pytest.approx(16.0)
    one = play(site_speeds=PACES, sites_per_round=1, rounds=6)
    one.rounds(6)
    spent = [4.0 if r["participants"] == ["near"] else 8.0 for r in one.records]
    assert [r["virtual_seconds"] for r in one.records] == pytest.approx([sum(spent[: k + 1]) for k in range(6)])
    lost = play(site_speeds=PACES, transport=Lossy, lost={(0, "far")})
    lost.rounds(1)
    assert lost.records[0]["virtual_seconds"] == pytest.approx(4.0)
    untimed = play(site_speeds={"near": NEAR})
    untimed.rounds(1)
    assert "virtual_seconds" not in untimed.records[0]
    assert "virtual_seconds" not in federation_round(untimed.records[0])


# ---------------------------------------------------------------------------------------------------- FedAsync, FedBuff


def test_fedasync_by_hand():
    # near arrives at 4, the window closes at 4.5: merged alone. far arrives at 1 + 5.2 + 2 = 8.2, its window closes at
    # 8.7, and near, sent again at 4.5, is in at 8.5. near's model is fresh, far's one merge old: a = .6 and
    # .6 / sqrt 2. 2 and 6 patches: p = 1/4, 3/4.
    p = asynchronous(["fedasync"], site_speeds={"near": NEAR, "far": SiteSpeed(96e-6, 48e-6, 2.6)})
    w1 = 0.4 * START + 0.6 * near_end(START)
    w2 = w1 + 0.25 * 0.6 * (near_end(w1) - w1) + 0.75 * 0.6 / math.sqrt(2) * (far_end(START) - w1)
    assert p.rounds(2) == [pytest.approx(w1.tolist(), abs=1e-5), pytest.approx(w2.tolist(), abs=1e-5)]
    assert [r["virtual_seconds"] for r in p.records] == pytest.approx([4.5, 8.7])
    assert [r["participants"] for r in p.records] == [["far", "near"], ["near"]]
    first, second = (r["sites"] for r in p.records)
    assert (first["near"]["age"], second["near"]["age"], second["far"]["age"]) == (0, 0, 1)
    assert "samples" not in first["far"]
    # far's message went down in round 0 and its reply came up in round 1.
    assert (first["far"]["bytes_down"], first["far"]["bytes_up"]) == (12, 0)
    assert (second["far"]["bytes_down"], second["far"]["bytes_up"]) == (0, 12)
    assert second["far"]["steps"] == 2


def test_fedbuff_by_hand():
    # With a buffer of one and no window near, at 4 s, is merged alone; far, at 7, comes next, one merge old; near's
    # second round ends at 8.
    p = asynchronous(
        [{"name": "fedbuff", "buffer": 1, "lr": 0.5}], site_speeds={"near": NEAR, "far": SiteSpeed(96e-6, 48e-6, 2.0)}
    )
    w1 = START - 0.5 * (START - near_end(START))
    w2 = w1 - 0.5 / math.sqrt(2) * (START - far_end(START))
    w3 = w2 - 0.5 / math.sqrt(2) * (w1 - near_end(w1))
    assert p.rounds(3) == [pytest.approx(w.tolist(), abs=1e-5) for w in (w1, w2, w3)]
    assert [r["virtual_seconds"] for r in p.records] == pytest.approx([4.0, 7.0, 8.0])


def test_a_buffer_of_all_sites_is_their_plain_mean():
    p = asynchronous([{"name": "fedbuff", "buffer": 2}])
    after = p.rounds(2)
    w1 = (near_end(START) + far_end(START)) / 2
    assert after[0] == pytest.approx(w1.tolist(), abs=1e-5)
    assert after[1] == pytest.approx(((near_end(w1) + far_end(w1)) / 2).tolist(), abs=1e-5)
    assert [r["virtual_seconds"] for r in p.records] == pytest.approx([8.0, 16.0])


EQUAL = {
    "near": Hand(4, target=(0.0, 0.0, 1.0), curvature=(1.0, 0.4, 0.2)),
    "far": Hand(4, target=(1.0, 0.0, 0.0), curvature=(0.2, 1.0, 0.4)),
}


@pytest.mark.parametrize(
    "method",
    [[{"name": "fedasync", "a0": 1.0}], [{"name": "fedbuff", "buffer": 2}], [{"name": "fedgmr", "exponent": 0.0}]],
)
@pytest.mark.parametrize("beside", [[], ["ecgr"], [{"name": "fedprox", "mu": 0.3}]])
def test_sites_of_one_speed_are_fedavg(method, beside):
    site_speeds = {"near": NEAR, "far": NEAR}
    plain = play(beside, people=EQUAL).rounds(3)
    assert asynchronous(method + beside, people=EQUAL, site_speeds=site_speeds).rounds(3) == [
        pytest.approx(w, abs=1e-6) for w in plain
    ]


def test_buffers_are_mixed_like_weights():
    chain = build_chain([{"name": "fedasync", "a0": 0.5, "exponent": 1.0}])
    p = asynchronous(chain)
    server = p.federation.server(1.0)
    server.buffers = torch.tensor([1.0, 2.0])
    server.samples, server.ages = {"near": 2, "far": 6}, {"near": 0, "far": 4}
    # a = .25 * .5 + .75 * .1 = .2
    assert chain.methods[0].aggregate_buffers(server, torch.tensor([2.0, 4.0])).tolist() == pytest.approx([1.2, 2.4])


# ------------------------------------------------------------------------------------------------------------- FedGMR


def test_fedgmr_merges_what_has_arrived_with_the_last_of_all():
    # No masks, exponent 1. Round 0: near alone, so W = e_near. Round 1: near anew, far's model of round 0 with age 1.
    p = asynchronous(
        [{"name": "fedgmr", "exponent": 1.0}], site_speeds={"near": NEAR, "far": SiteSpeed(96e-6, 48e-6, 2.6)}
    )
    w1 = near_end(START)
    w2 = (2 * near_end(w1) + 0.5 * 6 * far_end(START)) / 5
    assert p.rounds(2) == [pytest.approx(w1.tolist(), abs=1e-5), pytest.approx(w2.tolist(), abs=1e-5)]
    # Round 2 sends to both; near alone arrives, and far's model of round 0 is two merges old: s = 1/3.
    w3 = (2 * near_end(w2) + 6 / 3 * far_end(START)) / 4
    assert p.rounds(1) == [pytest.approx(w3.tolist(), abs=1e-5)]


def test_a_smaller_message_arrives_sooner():
    # near keeps two of three weights: 9 bytes down with the mask's bits, 8 up: .75 + 1 + 4/3 s.
    p = asynchronous(["fedgmr"], densities={"near": 0.4})
    p.rounds(1)
    assert p.records[0]["virtual_seconds"] == pytest.approx(0.75 + 1 + 8 / 6 + 0.5)


# ---------------------------------------------------------------------------------------- state, losses, evaluation

TRIO = {name: Hand(2 + 2 * k, (k / 5, 1 - k / 5, 0.4), (1.0, 0.4, 0.2 + k / 5)) for k, name in enumerate("abc")}
SPEEDS = {
    "a": SiteSpeed(96e-6, 48e-6, 0.5, 0.2),
    "b": SiteSpeed(96e-6, 48e-6, 1.0, 0.2),
    "c": SiteSpeed(96e-6, 48e-6, 4.0, 0.2),
}
METHODS = [
    ["fedasync", "scaffold", "ecgr"],
    [{"name": "fedbuff", "buffer": 2}, "scaffold", "fedprox"],
    [{"name": "fedgmr", "patience": 1}, "ecgr"],
]


def trio(method, **kwargs):
    densities = {"a": 1.0, "b": 0.7, "c": 0.4}
    return asynchronous(method, people=TRIO, site_speeds=SPEEDS, densities=densities, momentum=0.5, lr=0.1, **kwargs)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_stopping_with_work_in_flight_and_going_on_is_the_same_run(method, tmp_path):
    whole = trio(method, rounds=8, evaluate_every=2)
    after = whole.rounds(8)
    first = trio(method, rounds=8, evaluate_every=2)
    begun = first.rounds(4)
    assert first.state.in_flight
    folder = RunFolder(tmp_path)
    folder.save_checkpoint(first.state, [site.memory() for site in first.sites.values()], {})
    second = trio(method, rounds=8, evaluate_every=2)
    second.federation.state, _ = folder.load_checkpoint(second.sites)
    assert begun + second.rounds(4) == after
    assert first.records + second.records == whole.records
    assert second.state.clock == whole.state.clock
    assert second.state.in_flight.keys() == whole.state.in_flight.keys()


def test_a_rounded_update_on_its_way_is_kept(tmp_path):
    first = trio(METHODS[0], rounds=8)
    first.rounds(1)
    for site, flight in first.state.in_flight.items():
        update = flight.reply.update.to(torch.bfloat16).float()
        rounded = dataclasses.replace(flight.reply, update=update, update_dtype=torch.bfloat16)
        first.state.in_flight[site] = dataclasses.replace(flight, reply=rounded)
    RunFolder(tmp_path).save_checkpoint(first.state, [site.memory() for site in first.sites.values()], {})
    state, _ = RunFolder(tmp_path).load_checkpoint(trio(METHODS[0], rounds=8).sites)
    for site, flight in first.state.in_flight.items():
        assert state.in_flight[site].reply.update.dtype == torch.float32
        assert torch.equal(state.in_flight[site].reply.update, flight.reply.update)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_dropped_reply_leaves_no_trace_at_its_site(method):
    lost = {(0, "b"), (1, "a"), (3, "b")}
    dropped = trio(method, rounds=6, evaluate_every=2, transport=Lossy, lost=lost)
    never = trio(method, rounds=6, evaluate_every=2, transport=Absent, lost=lost)
    assert dropped.rounds(6) == never.rounds(6)
    assert any(r["failures"] for r in dropped.records)
    assert all(r["counted"] for r in dropped.records)


@pytest.mark.parametrize("method", METHODS[:2], ids=str)
def test_the_sum_of_variates_holds_whatever_arrives(method):
    p = trio(method, rounds=8, evaluate_every=1, lost={(2, "a"), (4, "b")})
    for _ in range(8):
        p.rounds(1)
        own = [p.committed(name).get("scaffold.own", torch.zeros(3)) for name in TRIO]
        torch.testing.assert_close(sum(own), 3 * p.state.tensors["scaffold.c"], rtol=1e-5, atol=1e-6)


def test_being_measured_does_not_disturb_work_in_flight():
    often, rarely = (trio(["fedasync", "scaffold"], rounds=6, evaluate_every=k) for k in (1, 100))
    assert often.rounds(6) == rarely.rounds(6)
    assert set(often.records[1]["sites"]) == {"a", "b", "c"}
    assert set(often.records[1]["sites"]["c"]) >= {"val", "bytes_down"}
    # Round 6 only measures, and what is in flight then is never merged.
    often.rounds(1)
    assert often.records[6]["participants"] == []
    assert often.records[6]["virtual_seconds"] == often.records[5]["virtual_seconds"]
    assert not often.records[6]["counted"]


def test_all_sites_failing_for_three_rounds_stops_the_run():
    lost = {(t, name) for t in range(9) for name in ("near", "far")}
    p = asynchronous(["fedasync"], rounds=9, lost=lost)
    with pytest.raises(RunFailed, match="3 rounds in a row"):
        p.federation.run()
    assert p.state.weights.tolist() == START.tolist()
    assert p.state.clock == 0.0


# ------------------------------------------------------------------------------------------------------------- refusals

PIPELINE = {
    "name": "demo",
    "task": {"classes": ["lung_aca", "lung_n"]},
    "data": {"source": "tissue"},
    "model": {"backbone": "test_byobnet"},
    "training": {"rounds": 2},
    "sites": {"train": ["north.yaml", {"name": "south", "link": {"down": 50, "up": 10, "seconds_per_step": 0.1}}]},
}


@pytest.fixture
def write(tmp_path):
    def write(method, north=None, **changes):
        (tmp_path / "north.yaml").write_text(yaml.safe_dump({"name": "north"} | (north or {})))
        path = tmp_path / "demo.yaml"
        path.write_text(yaml.safe_dump(PIPELINE | {"method": method} | changes))
        return path

    return write


LINK = {"link": {"down": 20, "up": 5, "seconds_per_step": 0.2, "jitter": 0.1}}


@pytest.mark.parametrize("method", ["fedgmr", "fedasync", {"name": "fedbuff", "buffer": 2}])
def test_a_missing_link_is_named_with_its_remedy(write, method):
    with pytest.raises(MedflError) as caught:
        load_pipeline(write([method]))
    assert all(part in str(caught.value) for part in ("demo.yaml", "site north", "`link`", "seconds_per_step"))
    assert "\n" not in str(caught.value)
    loaded = load_pipeline(write([method], LINK | {"density": 0.5}))
    assert loaded.train_sites[0].link.jitter == 0.1
    assert loaded.train_sites[0].density == 0.5


def test_a_synchronous_method_needs_no_link(write):
    assert load_pipeline(write([{"name": "fedgmr", "schedule": "sync"}])).train_sites[1].link.up == 10


@pytest.mark.parametrize(
    ("north", "said"),
    [
        ({"density": 0}, ["density", "greater than 0"]),
        ({"density": 1.01}, ["density", "less than or equal to 1"]),
        ({"density": -0.5}, ["density", "-0.5"]),
        ({"density": float("nan")}, ["density", "finite"]),
        ({"link": LINK["link"] | {"up": 0}}, ["link.up", "greater than 0"]),
        ({"link": LINK["link"] | {"down": -3}}, ["link.down", "-3"]),
        ({"link": LINK["link"] | {"seconds_per_step": 0}}, ["link.seconds_per_step"]),
        ({"link": LINK["link"] | {"jitter": -1}}, ["link.jitter", "greater than or equal to 0"]),
        ({"link": LINK["link"] | {"latency": 1}}, ["link.latency"]),
        ({"link": {"down": 1, "up": 1}}, ["link.seconds_per_step", "missing"]),
    ],
)
def test_links_and_densities_out_of_range(write, tmp_path, north, said):
    path = write([], north)
    for load in (lambda: load_pipeline(path), lambda: load_site(tmp_path / "north.yaml")):
        with pytest.raises(MedflError) as caught:
            load()
        assert "north.yaml" in str(caught.value)
        assert all(part in str(caught.value) for part in said), caught.value


@pytest.mark.parametrize(
    ("method", "changes", "said"),
    [
        ([{"name": "fedbuff", "buffer": 3}], {}, ["fedbuff", "`buffer` is 3", "2 training sites"]),
        ([{"name": "fedbuff", "buffer": 2}], {"training": {"rounds": 2, "sites_per_round": 1}}, ["`buffer` is 2"]),
        (["centralised"], {"training": {"rounds": 2, "sites_per_round": 1}}, ["sites_per_round", "centralised"]),
        ([], {"baseline": "centralised", "training": {"rounds": 2, "sites_per_round": 1}}, ["sites_per_round"]),
        (["fedasync", {"name": "fedbuff", "buffer": 2}], {}, ["fedasync", "fedbuff is not known to hold"]),
        (["fedasync", "fednova"], {}, ["fedasync", "fednova"]),
        ([{"name": "fedasync", "a0": 0}], {}, ["`a0`", "above 0"]),
        ([{"name": "fedasync", "alpha": 1}], {}, ["method.fedasync.alpha"]),
        ([{"name": "fedbuff", "buffer": 0}], {}, ["`buffer`"]),
        ([{"name": "fedbuff", "lr": 0}], {}, ["`lr`"]),
    ],
)
def test_contradictions_at_load(write, method, changes, said):
    with pytest.raises(MedflError) as caught:
        load_pipeline(write(method, LINK, **changes))
    assert all(part in str(caught.value) for part in ["demo.yaml", *said]), caught.value


# ------------------------------------------------------------------------------------------------------ the wall clock


class Line:
    """Sites behind a line of bytes, each at work only when told: a run on the wall clock whose order is known."""

    def __init__(self, people, method, rounds=4, evaluate_every=100, **plan):
        self.p = play(method, people, rounds=rounds, evaluate_every=evaluate_every, **plan)
        self.bounds = Bounds.of(next(iter(self.p.sites.values())).shared.model)
        self.go = {name: threading.Semaphore(0) for name in people}
        self.bench = threading.Lock()
        self.silent = set()
        self.asked = []
        self.remote = Remote(self.p.sites, self.ask, self.bounds)
        self.p.federation = self.wall(self.p.state)

    def wall(self, state):
        before = self.p.federation
        return Federation(before.config, self.remote, state, chain=before.chain, schedule=WallClockAsync())

    def ask(self, site, message):
        request = unpack_request(message, self.bounds)
        self.asked.append((request.round, site, "train" if isinstance(request, TrainRequest) else "measure"))
        if isinstance(request, TrainRequest):
            assert self.go[site].acquire(timeout=20)
            if site in self.silent:
                raise NoAnswer("no answer within 1 s")
        with self.bench:  # the sites share a network
            return pack(self.p.sites[site].handle(request), self.bounds)

    def play(self, *sites):
        """A round in which these sites come to an end of their work, one after another."""
        pending = self.p.federation.schedule.pending

        def release():
            for name in sites:
                while name not in pending:
                    time.sleep(0.001)
                answer = pending[name].answer
                self.go[name].release()
                wait([answer])

        thread = threading.Thread(target=release)
        thread.start()
        self.p.rounds(1)
        thread.join()
        return self.p.records[-1]


BUFF = [{"name": "fedbuff", "buffer": 1, "lr": 0.5}]


def test_a_slow_site_is_not_waited_for_and_its_update_is_scaled_by_its_age():
    line = Line(PAIR, BUFF, rounds=3)
    records = [line.play("near"), line.play("near"), line.play("far")]
    assert [sorted(r["sites"]) for r in records] == [["far", "near"], ["near"], ["far", "near"]]
    assert [r["participants"] for r in records] == [["far", "near"], ["near"], ["near"]]
    assert [r["sites"]["near"].get("age") for r in records] == [0, 0, None]
    assert records[2]["sites"]["far"]["age"] == 2
    assert all(r["counted"] for r in records)
    seconds = [r["wall_seconds"] for r in records]
    assert 0 < seconds[0] < seconds[1] < seconds[2]
    w1 = START - 0.5 * (START - near_end(START))
    w2 = w1 - 0.5 * (w1 - near_end(w1))
    w3 = w2 - 0.5 / math.sqrt(3) * (START - far_end(START))
    assert line.p.state.weights.tolist() == pytest.approx(w3.tolist(), abs=1e-5)
    # What the last round measures: near is still at work, is waited for, and its reply is dropped.
    last = line.play("near")
    assert line.p.state.weights.tolist() == pytest.approx(w3.tolist(), abs=1e-5)
    assert all("val" in entry and "steps" not in entry for entry in last["sites"].values())
    assert sorted(last["sites"]) == ["far", "near"]
    assert (last["counted"], last["failures"]) == (False, [])
    # Bytes: down where they were sent, up where they arrived.
    moved = [(r["sites"]["far"]["bytes_down"], r["sites"]["far"]["bytes_up"]) for r in (records[0], records[2])]
    assert moved == [(24, 0), (0, 12)]  # measured and trained in round 0


def test_measuring_waits_for_the_idle_only_and_counts_its_bytes():
    line = Line(PAIR, BUFF, rounds=3, evaluate_every=1)
    first, second = line.play("near"), line.play("near")
    assert sorted(line.asked[:2]) == [(0, "far", "measure"), (0, "near", "measure")]
    assert "val" in first["sites"]["far"]
    assert list(second["sites"]) == ["near"]
    assert (second["sites"]["near"]["bytes_down"], second["sites"]["near"]["bytes_up"]) == (24, 12)
    assert (1, "far", "measure") not in line.asked
    for name in PAIR:
        line.go[name].release()


def test_a_site_that_fails_is_named_when_that_is_known_and_asked_again():
    line = Line(PAIR, BUFF, rounds=3)
    line.silent = {"far"}
    first = line.play("far", "near")
    assert first["failures"] == [{"site": "far", "reason": "no answer within 1 s"}]
    assert first["counted"]
    line.silent = {"near", "far"}
    second = line.play("far", "near")
    assert {f["site"] for f in second["failures"]} == {"near", "far"}
    assert not second["counted"]
    assert line.p.state.lost == 1
    line.silent = set()
    third = line.play("near", "far")
    assert third["participants"] == ["far", "near"]
    assert third["counted"]
    line.go["near"].release(2)
    line.go["far"].release(2)


def test_a_run_on_the_wall_clock_goes_on_from_its_checkpoint(tmp_path):
    line = Line(PAIR, [*BUFF, "scaffold"], rounds=4)
    line.play("near")
    spent = line.p.state.clock
    folder = RunFolder(tmp_path)
    folder.save_checkpoint(line.p.state, [site.memory() for site in line.p.sites.values()], {})
    state, _ = folder.load_checkpoint(line.p.sites)
    line.go["far"].release()  # its reply reaches a server that is gone
    wait([errand.answer for errand in line.p.federation.schedule.pending.values()])
    line.p.federation = line.wall(state)
    record = line.play("near", "far")
    assert record["participants"] == ["far", "near"]
    assert record["wall_seconds"] > spent
    assert max(entry["age"] for entry in record["sites"].values() if "age" in entry) == 0
    line.go["near"].release()
    line.go["far"].release()


@pytest.mark.parametrize(
    ("method", "changes", "said"),
    [
        ([], {}, ["`training.clock: wall`", "do not wait", "remove the key"]),
        (["fedasync"], {"select": {"metric": "val_mean_auroc", "mode": "max"}}, ["`select`", "leave it at last"]),
    ],
)
def test_what_the_wall_clock_does_not_go_with(write, method, changes, said):
    with pytest.raises(MedflError) as caught:
        load_pipeline(write(method, training={"rounds": 2, "clock": "wall"}, **changes))
    assert all(part in str(caught.value) for part in ["demo.yaml", *said]), caught.value


def test_the_wall_clock_needs_no_link_but_processes(write, tmp_path):
    pipeline = load_pipeline(write(["fedasync"], training={"rounds": 2, "clock": "wall"}))
    with pytest.raises(MedflError, match="--engine nvflare"):
        run(pipeline, tmp_path / "run")
    assert not (tmp_path / "run").exists()
