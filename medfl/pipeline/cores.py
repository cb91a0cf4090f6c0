"""How a run shares out the cores of its machine: threads of a process, and workers."""

from __future__ import annotations

import os
from dataclasses import dataclass

from medfl import config
from medfl.idle_threads import waiting


@dataclass(frozen=True)
class Cores:
    """What a run uses of a machine's cores.

    Attributes:
        available: cores that this process may use.
        threads: of PyTorch, in this process and in each worker.
        workers: processes in which sites train; 1 is this one.
    """

    available: int
    threads: int
    workers: int

    def sentences(self, jobs: int = 1) -> tuple[str, ...]:
        """One on what is used, and a warning where `jobs` such runs at a time share cores."""
        each = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        where = f"{self.workers} workers of {each} each" if self.workers > 1 else each
        runs = f"{jobs} runs at a time, " if jobs > 1 else ""
        said = [f"Cores: {self.available}; {runs}{where}; {waiting()}"]
        if (wanted := jobs * self.workers * self.threads) > self.available:
            remedy = "lower `--jobs`, " if jobs > 1 else ""
            said.append(
                f"WARNING: {wanted} threads share {self.available} cores, which makes all of them slow; {remedy}lower "
                f"`training.workers` or `training.threads`"
            )
        return tuple(said)


def cores_of(pipeline: config.Pipeline, gpus: int = 0) -> Cores:
    """What a run of a pipeline uses; with `gpus` it trains on so many."""
    available, training = len(os.sched_getaffinity(0)), pipeline.training
    value = os.environ.get("OMP_NUM_THREADS", "")
    default = int(value) if value.isdecimal() and int(value) else available
    threads = training.threads or (default if training.workers == 1 else 1)
    most = 1 if pipeline.baseline == "centralised" else len(pipeline.train_sites)
    wanted = (gpus or available // threads) if training.workers == "auto" else training.workers
    return Cores(available, threads, max(1, min(wanted, most)))


def worker_device(device: str, worker: int, gpus: int) -> str:
    """The device of a worker where `training.device` is `device`: with several GPUs and none of them named, one after
    the other, and from the first again where there are more workers."""
    return f"cuda:{worker % gpus}" if gpus > 1 and device in ("auto", "cuda") else device
