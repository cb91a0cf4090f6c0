"""What a round costs beside its steps: aggregation, everything else, memory and time with many sites. CPU."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import torch

from benchmarks.speed.figure import Figure, interleaved
from benchmarks.speed.workload import SMALL, Rounds, replies, store, work, workbench
from medfl.federation.aggregation import WeightedMean
from medfl.federation.reply_checks import reason_to_reject
from medfl.federation.rounds import Federation
from medfl.federation.server_state import FederationConfig, ServerState
from medfl.messages import Reply, Request
from medfl.methods.core.chain import MethodChain
from medfl.runs.background_writer import Background
from medfl.runs.folder import RunFolder


class Canned:
    """A transport whose sites have their replies ready."""

    def __init__(self, answers: Sequence[Reply]) -> None:
        self.answers = {answer.site: answer for answer in answers}

    def call(self, sites: Sequence[str], request: Callable[[str], Request]) -> Iterator[Reply]:
        """See Transport.call."""
        for name in sites:
            request(name)
            yield self.answers[name]


def aggregation(repeats: int) -> Iterator[Figure]:
    """What the server does with ten updates of 11.2 M values that are there."""
    bench = workbench("resnet18", [])
    answers = replies(10, bench)
    names = tuple(answer.site for answer in answers)
    plan = FederationConfig(names, (), 10**6, 1, bench.model.layout.stages(), evaluate_every=10**6)
    state = ServerState(1, bench.model.weights(), bench.model.buffers())
    federation = Federation(plan, Canned(answers), state)

    def read() -> None:
        for answer in answers:
            assert answer.update is not None
            torch.sum(answer.update)

    fold, server = WeightedMean(state), federation.server(1.0)

    def aggregate() -> None:
        fold.reset()
        for answer in answers:
            if reason := reason_to_reject(answer, server, plan, MethodChain(), dict.fromkeys(names, 1)):
                raise RuntimeError(reason)
            fold.add(answer)
        fold.finish()

    def play() -> None:
        state.round = 1  # which the replies answer
        if not federation.run_round()["counted"]:
            raise RuntimeError("the round did not count")

    ours, whole, floor = interleaved([aggregate, play, read], repeats=10 * repeats, warm=2)
    yield Figure(
        "mean of 10 updates of 11.2 M values, checks included",
        "one `sum` over the same values",
        ours / floor,
        target=2.0,
        detail={"mean_s": ours, "sum_s": floor},
    )
    yield Figure(
        "whole round of the server for 10 updates of 11.2 M values",
        "one `sum` over the same values",
        whole / floor,
        detail={"round_s": whole, "sum_s": floor},
    )


def everything_else(repeats: int) -> Iterator[Figure]:
    """Share of a round that is neither a local step nor evaluation; records and checkpoints are written meanwhile."""
    for backbone, turns in ((SMALL, 3 * repeats), ("resnet18", repeats)):
        stores = [store(f"site-{k}", 330, 64, seed=k) for k in range(5)]
        shares, whole = [], []
        with Written(Rounds(workbench(backbone, []), stores, work(20))) as game:
            game.play()
            for _ in range(turns):
                game.rounds.step_seconds()
                began = time.perf_counter()
                game.play()
                whole.append(time.perf_counter() - began)
                shares.append(1 - game.rounds.step_seconds() / whole[-1])
        yield Figure(
            f"everything but local steps, 5 sites x 20 steps, {backbone} 64 px",
            "the round",
            statistics.median(shares),
            target=0.03,
            detail={"round_s": statistics.median(whole)},
        )


class Written(contextlib.ExitStack):
    """Rounds whose records and checkpoints go to a run folder, as those of a run do."""

    def __init__(self, rounds: Rounds) -> None:
        super().__init__()
        self.rounds = rounds
        self._folder = RunFolder.create("bench", self.enter_context(tempfile.TemporaryDirectory()))
        self._writer = self.enter_context(Background())

    def play(self) -> None:
        """One round."""
        record, state = self.rounds.play(), self.rounds.federation.state.snapshot()
        memories = [site.memory() for site in self.rounds.sites.values()]
        self._writer.submit(lambda: self._folder.save_round(record, {}, state, memories, {}))


MEMORY = """
import sys
from pathlib import Path
from benchmarks.speed.workload import Rounds, store, work, workbench
sites, patches = int(sys.argv[1]), 4000
bench = workbench("resnet18", [])
game = Rounds(bench, [store(f"site-{k}", patches // sites, 32, val=1) for k in range(sites)], work(1, batch_size=8))
for _ in range(3):
    game.play()
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""


def memory(repeats: int) -> Iterator[Figure]:
    """Peak resident memory of three rounds, the same 4,000 patches dealt to 100 sites or to 5."""
    peaks = {}
    for sites in (5, 100):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, str(sites)], capture_output=True, text=True, check=True, timeout=600
        )
        peaks[sites] = int(done.stdout) / 1024
    yield Figure(
        "peak memory of 100 sites, resnet18, FedAvg",
        "peak memory of 5 sites",
        peaks[100] / peaks[5],
        target=1.05,
        detail={"sites_100_mib": peaks[100], "sites_5_mib": peaks[5]},
    )


def many_sites(repeats: int) -> Iterator[Figure]:
    """A round of 10 sites drawn from 1,000 over a round of 10 sites out of 10; 5 steps each."""

    def game(count: int) -> Written:
        stores = [store(f"site-{k:04}", 40, 64, val=8, seed=k) for k in range(count)]
        return Written(Rounds(workbench(SMALL, []), stores, work(5), sites_per_round=10))

    with game(1000) as crowd, game(10) as handful:
        many, few = interleaved([crowd.play, handful.play], repeats=5 * repeats)
    yield Figure(
        f"round of 10 sites of 1,000, {SMALL} 64 px",
        "round of 10 sites of 10",
        many / few,
        target=1.05,
        detail={"of_1000_s": many, "of_10_s": few},
    )
