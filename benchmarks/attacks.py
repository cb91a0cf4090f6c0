"""How far malicious sites pull a federation's model away, by simulation. A test instrument: nothing in medfl attacks.

    uv run python -m benchmarks.attacks                  # goes on where docs/results/attacks/runs.csv ends
    uv run python -m benchmarks.attacks --data tissue    # generated tissue in place of LC25000, for a first look
    uv run python -m benchmarks.attacks --tables         # rewrites the tables of docs/robustness.md; trains nothing

Every method meets every attack with 1 of 5 and 2 of 7 training sites malicious, three seeds each: 192 runs, about 20
minutes of one core. Data, network and local work are those of pipelines/studies/base.yaml (LC25000 at 64 px, a 0.2 M
network) with Dirichlet(0.5) class mixes, 12 rounds of 5 local steps and learning rate 0.01 for every method. Malicious
are the first sites by name, in every round.

    labels   their training labels are c -> C - 1 - c (Fang et al. 2020, arXiv:1911.11815, section 5)
    sign     they send -1 times their update
    scale    they send 10 times their update

BatchNorm statistics are sent as they are: flipped, a variance would be negative and the reply refused as it stands.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.attacks_results import ATTACKS, METHODS, PAGE, RUNS, SETTINGS, Run, read, rewritten
from benchmarks.tables import ROOT
from medfl.data.bag_store import SiteStore
from medfl.errors import RunFailed
from medfl.federation.callbacks import Callback
from medfl.federation.rounds import Federation
from medfl.federation.server_state import ServerState
from medfl.federation.transport import InProcess, Transport
from medfl.messages import EvaluateRequest, Failure, Reply, Request
from medfl.methods.core.chain import build_chain
from medfl.metrics.measure import mean_supported
from medfl.metrics.record_types import RoundRecord
from medfl.pipeline.build_site import build_sites
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.prepare import LocalRunSetup, prepare
from medfl.site.shared_model import SharedModel

BASE = ROOT / "pipelines" / "studies" / "base.yaml"
SEEDS = (1, 2, 3)
FACTORS = {"sign": -1.0, "scale": 10.0}
SETTING = [
    "training.rounds=12",
    "training.local_steps=5",
    "training.optimizer.lr=0.01",
    "training.evaluate_every=12",
    "training.threads=1",
    "training.device=cpu",
]


class Corrupting:
    """A transport between which and the server some sites' updates are multiplied by a factor.

    Args:
        inner: how the sites are reached.
        malicious: their names.
        factor: of their updates.
    """

    def __init__(self, inner: Transport, malicious: Collection[str], factor: float) -> None:
        self.inner, self.malicious, self.factor = inner, malicious, factor

    def call(self, sites: Sequence[str], request: Callable[[str], Request]) -> Iterator[Reply | Failure]:
        """See Transport.call."""
        for answer in self.inner.call(sites, request):
            if isinstance(answer, Reply) and answer.update is not None and answer.site in self.malicious:
                answer = dataclasses.replace(answer, update=answer.update * self.factor)
            yield answer


def flipped(store: SiteStore, classes: int) -> SiteStore:
    """The store with training labels c -> C - 1 - c; what the site is measured by stays."""
    labels = np.array(store.labels)
    rows = store.splits["train"]
    labels[rows] = classes - 1 - labels[rows]
    return dataclasses.replace(store, labels=labels, digest=f"{store.digest}-flipped")


def chain_of(method: str, sites: int, malicious: int) -> list[Any]:
    """A method as a pipeline would state it, told how many sites may be malicious."""
    stated: Mapping[str, list[Any]] = {
        "fedavg": [],
        "ecgr": ["ecgr"],
        "norm_guard": ["norm_guard"],
        "norm_clip": ["norm_clip"],
        "median": ["median"],
        "trimmed_mean": [{"name": "trimmed_mean", "share": malicious / sites}],
        "krum": [{"name": "krum", "byzantine": malicious}],
        "multi-krum": [{"name": "krum", "byzantine": malicious, "keep": sites - malicious}],
    }
    return stated[method]


class Recorder(Callback):
    """Keeps the records of the rounds."""

    def __init__(self) -> None:
        self.records: list[RoundRecord] = []

    def after_round(self, record: RoundRecord, state: ServerState) -> None:
        """See Callback."""
        self.records.append(record)


def attacked(prepared: LocalRunSetup, start: ServerState, method: str, attack: str, malicious: int) -> dict[str, Any]:
    """Train under an attack; the figures of the last model, and whose replies were refused.

    Args:
        prepared: sites with their data, and the network.
        start: the initial model; left as it is.
        method, attack: of METHODS and ATTACKS.
        malicious: how many sites are.
    """
    names = sorted(prepared.config.train_sites)
    bad = set(names[:malicious]) if attack != "none" else set()
    chain = build_chain(chain_of(method, len(names), malicious))
    chain.async_schedule(len(names))
    bench = SharedModel(prepared.shared.model, chain)
    stores = {name: site.store for name, site in prepared.sites.items()}
    if attack == "labels":
        stores |= {name: flipped(stores[name], len(prepared.pipeline.task.classes)) for name in bad}
    transport: Transport = InProcess(build_sites(prepared.pipeline, stores, bench))
    if attack in FACTORS:
        transport = Corrupting(transport, bad, FACTORS[attack])
    recorder = Recorder()
    state = ServerState(0, start.weights.clone(), start.buffers.clone())
    federation = Federation(prepared.config, transport, state, [recorder], chain)
    with contextlib.suppress(RunFailed):  # what was lost shows in `counted`; the last good model is measured
        federation.run()
    refused = [failure["site"] in bad for record in recorder.records for failure in record["failures"]]
    return measured(prepared, state) | {
        "counted": sum(record["counted"] for record in recorder.records),
        "refused_malicious": sum(refused),
        "refused_honest": len(refused) - sum(refused),
    }


def measured(prepared: LocalRunSetup, state: ServerState) -> dict[str, float | None]:
    """Mean and worst AUROC and mean balanced accuracy at the held-out sites; None where scores are not finite."""

    def request(name: str) -> Request:
        return EvaluateRequest(prepared.config.rounds, state.weights, state.buffers, ("test",))

    answers = list(InProcess(prepared.sites).call(prepared.config.held_out_sites, request))
    figures = [answer.metrics["test"] for answer in answers if isinstance(answer, Reply)]
    if len(figures) < len(answers):
        return {"auroc": None, "worst_auroc": None, "balanced_accuracy": None}
    return {
        "auroc": mean_supported([each["auroc"] for each in figures]),
        "worst_auroc": min(each["auroc"] for each in figures),
        "balanced_accuracy": mean_supported([each["balanced_accuracy"] for each in figures]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", choices=("lc25000", "tissue"), default="lc25000")
    parser.add_argument("--out", type=Path, help="table of runs; by default the committed one for LC25000")
    parser.add_argument("--tables", action="store_true", help="train nothing")
    given = parser.parse_args()
    out: Path = given.out or (RUNS if given.data == "lc25000" else Path("attacks-tissue.csv"))
    if not given.tables:
        out.parent.mkdir(parents=True, exist_ok=True)
        play(given.data, out)
    if out == RUNS:
        PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8"), read(RUNS)), encoding="utf-8")


def play(data: str, out: Path) -> None:
    """Make the runs that the table lacks, one line each as it ends."""
    done = {run.key for run in read(out)}
    for seed in SEEDS:
        for sites, malicious in SETTINGS:
            wanted = [
                (method, attack)
                for attack in ATTACKS
                for method in METHODS
                if (sites, malicious, attack, method, seed) not in done
            ]
            if not wanted:
                continue
            shape = f"{{count: {sites}, held_out: 3, dirichlet_alpha: 0.5, held_out_alpha: 1000, stain_strength: 0}}"
            pipeline = load_pipeline(BASE, [*SETTING, f"data.source={data}", f"sites.generate={shape}", f"seed={seed}"])
            prepared = prepare(pipeline)
            start = prepared.initial_state()
            for method, attack in wanted:
                run = Run(
                    sites, malicious, attack, method, seed, **attacked(prepared, start, method, attack, malicious)
                )
                append(out, run)
                print(f"{malicious} of {sites}, seed {seed}, {attack}, {method}: AUROC {run.auroc}", flush=True)


def append(path: Path, run: Run) -> None:
    """One line of CSV, after the headings where the file is new; figures to five digits."""
    new = not path.is_file()
    with path.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        if new:
            writer.writerow(field.name for field in dataclasses.fields(run))
        cells = dataclasses.astuple(run)
        writer.writerow("" if v is None else f"{v:.5g}" if isinstance(v, float) else v for v in cells)


if __name__ == "__main__":
    main()
