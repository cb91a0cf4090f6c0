"""What `transport.dtype: bfloat16` does to a result: LC25000 at 32 px, a small network trained whole at six sites.

    uv run python -m benchmarks.transport           # measures; needs LC25000 (MEDFL_LC25000); some minutes on a core
    uv run python -m benchmarks.transport page      # rewrites the table of docs/scale.md; measures nothing

Every method and seed is trained with both types of number, all else being the same, and measured at three sites that
never train. What rounding does to an update is measured on the updates of the first rounds. Writes
docs/results/scale/transport.csv.
"""

from __future__ import annotations

import csv
import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.pages import rewritten, table
from benchmarks.tables import ROOT
from medfl import config
from medfl.federation.transport import InProcess
from medfl.messages import Failure, Reply, Request
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.prepare import prepare
from medfl.pipeline.run import run

PAGE = ROOT / "docs" / "scale.md"
OUT = ROOT / "docs" / "results" / "scale" / "transport.csv"
PIPELINE = ROOT / "pipelines" / "lc25000_small.yaml"
METHODS = ("fedavg", "scaffold")
SEEDS = (1, 2, 3)
DTYPES = ("float32", "bfloat16")
LOOKS = 2  # rounds whose updates are looked at
SETTINGS = (
    "data.size=32",
    "model={backbone: test_byobnet}",
    "training={rounds: 10, local_steps: 10, batch_size: 32, threads: 1, evaluate_every: 10}",
    "training.optimizer={name: sgd, lr: 0.05, momentum: 0.9}",
    "evaluation={resamples: 100, members: 0}",
    "tracking.enabled=false",
)
Row = dict[str, Any]


def pipeline(method: str, seed: int, dtype: str) -> config.Pipeline:
    """One run."""
    chain = "[]" if method == "fedavg" else f"[{method}]"
    return load_pipeline(PIPELINE, [*SETTINGS, f"method={chain}", f"seed={seed}", f"transport.dtype={dtype}"])


class Looking(InProcess):
    """Sites of this process, and the relative error of each of their updates when it is rounded."""

    errors: tuple[float, ...] = ()

    def call(self, sites: Sequence[str], request: Callable[[str], Request]) -> Iterator[Reply | Failure]:
        """See Transport.call."""
        for answer in super().call(sites, request):
            if isinstance(answer, Reply) and answer.update is not None:
                self.errors += (error(answer.update),)
            yield answer


def error(update: Tensor) -> float:
    """||u - bf16(u)|| / ||u||."""
    return float((update - update.to(torch.bfloat16).float()).norm() / update.norm())


def rounding(method: str) -> float:
    """The largest relative error of an update in the first rounds."""
    setup = prepare(pipeline(method, SEEDS[0], "float32"))
    federation = setup.federation(setup.initial_state())
    federation.transport = looking = Looking(setup.sites)
    for _ in range(LOOKS):
        federation.run_round()
    return max(looking.errors)


def measured() -> Iterator[Row]:
    """A row a run."""
    largest = {method: rounding(method) for method in METHODS}
    for seed in SEEDS:
        for method in METHODS:
            for dtype in DTYPES:
                with tempfile.TemporaryDirectory() as folder:
                    outcome = run(pipeline(method, seed, dtype), Path(folder) / "run")
                    sites = outcome.summary["sites"].values()
                    held_out = [site for site in sites if site["role"] == "held_out"]
                    up = next(iter(outcome.folder.records()[0]["sites"].values()))["bytes_up"]
                row: Row = {"method": method, "seed": seed, "dtype": dtype, "bytes_up": up}
                row["update_error"] = round(largest[method], 6)
                for figure in ("auroc", "balanced_accuracy", "nll"):
                    row[figure] = round(statistics.mean(float(site[figure] or math.nan) for site in held_out), 5)
                print(row, flush=True)
                yield row


def results_table() -> str:
    """Each method with both types of number, and what lies between them."""
    with OUT.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        plain, rounded = ([r for r in rows if (r["method"], r["dtype"]) == (method, dtype)] for dtype in DTYPES)
        plain = plain[: len(rounded)]  # pairs only
        if not plain:
            continue
        cells = [method, "{:.2f} / {:.2f}".format(*(int(part[0]["bytes_up"]) / 1e6 for part in (plain, rounded)))]
        cells += [f"{float(plain[0]['update_error']):.2%}", str(len(plain))]
        for figure in ("auroc", "balanced_accuracy", "nll"):
            one, other = ([float(row[figure]) for row in part] for part in (plain, rounded))
            gaps = [b - a for a, b in zip(one, other, strict=True)]
            spread = f" (seeds ±{statistics.stdev(one):.4f})" if len(one) > 1 else ""
            cells.append(f"{statistics.mean(one):.4f}, {statistics.mean(gaps):+.4f}{spread}")
        lines.append(cells)
    head = ["method", "MB up a site: float32 / bfloat16", "largest error of an update", "seeds"]
    return table([*head, "AUROC", "balanced accuracy", "NLL"], lines)


def main(words: Sequence[str]) -> None:
    """See the module."""
    if "page" not in words:
        with OUT.open("w", encoding="utf-8", newline="") as stream:
            for number, row in enumerate(measured()):
                writer = csv.DictWriter(stream, row.keys(), lineterminator="\n")
                if number == 0:
                    writer.writeheader()
                writer.writerow(row)
                stream.flush()
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8"), {"transport": results_table}), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
