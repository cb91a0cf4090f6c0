"""What workers give on two cores: a round of four sites in two of them against one process with two threads. CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from benchmarks.speed.figure import Figure, interleaved
from benchmarks.speed.workload import METHOD, SMALL, Rounds, store, work, workbench
from medfl.pipeline.workers.worker_transport import WorkerTransport

SITES, WORKERS, STEPS = 4, 2, 20
SETTINGS: tuple[tuple[str, METHOD, float], ...] = (
    (SMALL, [], 1.6),
    (SMALL, ["ecgr"], 1.6),
    ("resnet18", [], 1.3),
    ("resnet18", ["ecgr"], 1.3),
)


def game(backbone: str, method: METHOD) -> Rounds:
    """Four sites of 330 patches of 64 px each."""
    stores = [store(f"site-{k}", 330, 64, seed=k) for k in range(SITES)]
    return Rounds(workbench(backbone, method), stores, work(STEPS))


def with_threads(count: int, play: Callable[[], object]) -> Callable[[], None]:
    """The same with so many threads."""

    def action() -> None:
        torch.set_num_threads(count)
        play()

    return action


def workers_over_threads(repeats: int) -> Iterator[Figure]:
    """Rounds a minute of two workers with one thread each over those of one process with two threads."""
    for backbone, method, target in SETTINGS:
        one, other = game(backbone, method), game(backbone, method)
        torch.set_num_threads(1)
        with contextlib.closing(WorkerTransport(other.sites, WORKERS, 1, lambda worker: {})) as transport:
            transport.start()
            other.federation.transport = transport
            threads, workers = interleaved(
                [with_threads(WORKERS, one.play), with_threads(1, other.play)],
                repeats=max(7, repeats) if backbone == SMALL else max(3, repeats),
            )
        yield Figure(
            f"rounds a minute in 2 workers, {'+'.join(map(str, method)) or 'fedavg'}, {SITES} sites x {STEPS} steps, "
            f"{backbone} 64 px",
            "one process with 2 threads",
            threads / workers,
            target=target,
            at_least=True,
            detail={"threads_s": threads, "workers_s": workers},
        )
