"""What workers give on two cores: a round of four sites in two of them against one process with two threads. CPU.

The same of bare loops, two processes with one thread each and one with two, says how much there is to be had: a target
is what was asked of workers, or this share of what bare loops give where that is less.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import torch

from benchmarks.speed.figure import Figure, interleaved
from benchmarks.speed.steps import plain_loop
from benchmarks.speed.workload import METHOD, SMALL, Rounds, store, work, workbench
from medfl.model import allocator
from medfl.pipeline.workers.worker_transport import WorkerTransport

SITES, WORKERS, STEPS = 4, 2, 20
OF_BARE = 0.9
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


def bare_loops(ends: Connection, backbone: str, threads: int, loops: int) -> None:
    """What a process of its own does: so many bare loops at each word, until there is none."""
    torch.set_num_threads(threads)
    allocator.keep_freed()
    play = plain_loop(backbone, 64, STEPS)
    while ends.recv():
        for _ in range(loops):
            play()
        ends.send(True)


def bare_process(backbone: str, threads: int, loops: int) -> tuple[Connection, BaseProcess]:
    """A process of bare loops, and where it is told to go on."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=bare_loops, args=(there, backbone, threads, loops), daemon=True)
    process.start()
    there.close()  # so that a process that dies is an end of what it says
    return here, process


def bare_processes(backbone: str, repeats: int) -> Figure:
    """Bare loops of as many steps as a round has, two processes with one thread each over one with two."""
    one = [bare_process(backbone, WORKERS, SITES)]
    several = [bare_process(backbone, 1, SITES // WORKERS) for _ in range(WORKERS)]

    def play(processes: list[tuple[Connection, BaseProcess]]) -> None:
        for end, _ in processes:
            end.send(True)
        for end, _ in processes:
            end.recv()

    together, apart = interleaved([partial(play, one), partial(play, several)], max(7, repeats))
    for end, process in one + several:
        end.send(False)
        process.join()
    return Figure(
        f"bare loops in 2 processes, {SITES} x {STEPS} steps, {backbone} 64 px",
        "one process with 2 threads",
        together / apart,
        at_least=True,
        detail={"threads_s": together, "processes_s": apart},
    )


def workers_over_threads(repeats: int) -> Iterator[Figure]:
    """Rounds a minute of two workers with one thread each over those of one process with two threads."""
    bare = {backbone: bare_processes(backbone, repeats) for backbone in dict.fromkeys(each[0] for each in SETTINGS)}
    yield from bare.values()
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
            target=min(target, OF_BARE * bare[backbone].value),
            at_least=True,
            detail={"threads_s": threads, "workers_s": workers, "asked_times": target},
        )
