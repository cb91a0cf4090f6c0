"""What sites in processes of their own cost beside the same sites in one process, and what the server needs for many.

    uv run python -m benchmarks.scale [deployed] [server]    # measures; about twenty minutes on two cores
    uv run python -m benchmarks.scale page                   # rewrites the tables of docs/scale.md; measures nothing

`deployed` carries a pipeline of one small local step a round out in one process and with `medfl deploy poc` (server and
sites in processes, mutual TLS), and compares a round. `server` plays the server's part of many rounds against simulated
sites, which answer in bytes at once, and watches the memory of the process. Both write into docs/results/scale/.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

import numpy as np
import psutil
import torch
import yaml

from benchmarks.pages import rewritten, table
from benchmarks.tables import ROOT
from medfl.engines.nvflare.launch import run as deployed
from medfl.engines.remote.codec import Bounds, pack, unpack_request
from medfl.engines.remote.pieces import Message, PieceDesk
from medfl.engines.remote.remote_transport import Remote
from medfl.engines.remote.server_endpoint import RemoteRunSetup
from medfl.messages import Reply
from medfl.metrics.measure import measure
from medfl.model.disk_vector import on_disk
from medfl.pipeline.build_federation import federation_config
from medfl.pipeline.build_site import checked_shared_model
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.run import run
from medfl.runs.folder import RunFolder
from medfl.runs.progress import ProgressCallbacks

PAGE = ROOT / "docs" / "scale.md"
RESULTS = ROOT / "docs" / "results" / "scale"
SMALL = "test_byobnet"
BACKBONE = "resnet18"  # of the simulated sites
CASES: tuple[tuple[int, str, list[str], int], ...] = (
    *((sites, SMALL, [], 40) for sites in (2, 4, 8)),
    *((sites, "resnet18", [], 8) for sites in (2, 4, 8)),
    (4, "resnet18", ["ecgr"], 8),
    (4, "resnet18", ["scaffold"], 8),
    (4, "resnet50", [], 6),
    (4, "vit_base_patch16_224", [], 4),
    (2, "vit_large_patch16_224", [], 3),
)
ARGS = {name: {"img_size": 32} for name in ("vit_base_patch16_224", "vit_large_patch16_224")}  # as the patches
MOMENTUM = {"vit_large_patch16_224": 0.0}  # sites of it and a server on one machine of 24 GiB have no room for momentum
SERVERS: tuple[tuple[list[str], int], ...] = (([], 40), (["scaffold"], 20), (["median"], 20))
SITES = 20  # simulated
SETTLED = 10  # rounds after which the server's memory is compared
Row = dict[str, Any]


def pipeline_file(folder: Path, sites: int, backbone: str, method: list[str], rounds: int) -> Path:
    """A pipeline whose rounds are one local step of eight patches of 32 px at each site."""
    content = {
        "name": "scale",
        "seed": 1,
        "task": {"classes": ["lung_aca", "lung_n"]},
        "data": {
            "source": "tissue",
            "size": 32,
            "mpp": 0.5,
            "tissue": {"tiles_per_class": 12 * sites, "copies": 2, "size": 48},
        },
        "sites": {"generate": {"count": sites, "patches": 16, "dirichlet_alpha": 100.0}},
        "model": {"backbone": backbone, "args": ARGS.get(backbone, {})},
        "method": method,
        "training": {
            "rounds": rounds,
            "local_steps": 1,
            "batch_size": 8,
            "threads": 1,
            "evaluate_every": 1000,
            "optimizer": {"name": "sgd", "lr": 0.03, "momentum": MOMENTUM.get(backbone, 0.9)},
        },
        "evaluation": {"resamples": 100},
        "tracking": {"enabled": False},
    }
    file = folder / f"{sites}-{backbone}-{'-'.join(method)}.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


def seconds_a_round(play: Callable[[ProgressCallbacks], Any]) -> tuple[float, float]:
    """(seconds from the command to the end of the first round, mean seconds of the rounds after the second)."""
    told: list[float] = []
    began = time.perf_counter()
    play(ProgressCallbacks(round=lambda record, rounds: told.append(time.perf_counter())))
    last = len(told) - 2  # the very last only measures
    return told[0] - began, (told[last] - told[1]) / (last - 1)


def in_one_process(file: Path, out: Path) -> tuple[int, float, float]:
    """P, and what `seconds_a_round` finds of a pipeline whose sites are all in this process."""
    pipeline = load_pipeline(file)
    parameters = checked_shared_model(pipeline).model.layout.size
    return parameters, *seconds_a_round(lambda watcher: run(pipeline, out, watcher))


class ServerMemory(Thread):
    """Watches the process of this machine that plays a server's part of a run.

    Attributes:
        most: MiB that no file backs, the most there has been.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0.0
        self._over = Event()

    def run(self) -> None:
        """Look for it, then at it, until `end`."""
        server = None
        while not self._over.wait(0.1 if server else 1.0):
            with suppress(OSError, KeyError):  # it has ended
                server = server or running("server.runner_process")
                self.most = max(self.most, memory(server)["anonymous_mib"] if server else 0.0)

    def end(self) -> float:
        """Stop; the most there has been."""
        self._over.set()
        self.join()
        return self.most


def running(word: str) -> int | None:
    """A process whose command line holds a word."""
    processes = psutil.process_iter(["pid", "cmdline"])
    return next((each.info["pid"] for each in processes if word in " ".join(each.info["cmdline"] or [])), None)


def compare() -> Iterator[Row]:
    """A round in processes against a round in one, for every case."""
    for sites, backbone, method, rounds in CASES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            file = pipeline_file(folder, sites, backbone, method, rounds)
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                parameters, start, near = pool.submit(in_one_process, file, folder / "near").result()
            pipeline = load_pipeline(file)
            server = ServerMemory()
            server.start()
            begin, far = seconds_a_round(lambda watcher: deployed(pipeline, "poc", folder / "far", watcher))  # noqa: B023
            most = server.end()
            record = RunFolder(folder / "far").records()[1]["sites"]
            moved = next(iter(record.values()))
        row = {"method": " + ".join(method) or "fedavg", "backbone": backbone, "parameters": parameters, "sites": sites}
        row |= {"rounds": rounds, "bytes_down": moved["bytes_down"], "bytes_up": moved["bytes_up"]}
        row |= {"in_process_s": near, "deployed_s": far, "more_s": far - near, "start_s": begin - start}
        row["server_mib"] = most
        yield {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}


def serve(method: Sequence[str], rounds: int) -> list[Row]:
    """Play the server of a run whose sites answer at once: memory and seconds of each round.

    What a site does is no more than to write its answer as bytes, so that they are new ones, as from a line.
    """
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        pipeline = load_pipeline(pipeline_file(Path(name), SITES, BACKBONE, list(method), rounds))
        bench = checked_shared_model(pipeline)
        bench.model.rest_on_disk()  # as `medfl.engines.remote.server_endpoint.serve` does
        bounds, size, chain = Bounds.of(bench.model), bench.model.layout.size, bench.chain
        fingerprint = bench.model.fingerprint()
        draw = torch.Generator().manual_seed(0)
        updates = [on_disk(1e-3 * torch.randn(size, generator=draw)) for _ in range(4)]  # not the server's memory
        extra = {name: on_disk(1e-3 * torch.randn(size, generator=draw)) for name in chain.sends}
        names = sorted(site.name for site in pipeline.train_sites)
        classes, labels = pipeline.task.classes, np.arange(4 * len(pipeline.task.classes))
        even = np.full((len(labels), len(classes)), 1 / len(classes))
        figures = measure(even, labels % len(classes), labels, classes, bins=pipeline.evaluation.bins)

        desks, one_at_a_time = {name: PieceDesk() for name in names}, Lock()

        def ask(site: str, message: bytes) -> bytes:
            return desks[site].answered(message, bounds.message, partial(answer, site))

        def answer(site: str, message: Message) -> Message:
            update = updates[names.index(site) % len(updates)]
            with one_at_a_time:  # what the sites hold is not the server's
                splits = unpack_request(message, bounds).splits
            reply = Reply(
                site,
                state.round,
                samples=100 + names.index(site),
                steps=10,
                update=update,
                buffers=bench.model.buffers(),
                train_loss=0.5,
                fingerprint=fingerprint,
                extra=extra,
                metrics=dict.fromkeys(splits, figures),
            )
            return pack(reply, bounds)

        plan = federation_config(pipeline, bench.model)
        head = RemoteRunSetup(
            pipeline=pipeline, shared=bench, config=plan, groups_unknown=False, remote=Remote(names, ask, bounds)
        )
        state = head.initial_state()
        folder = RunFolder.create("scale", Path(name) / "run")
        federation = head.federation(state)
        for number in range(rounds):
            began = time.perf_counter()
            record = federation.run_round()
            assert not record["failures"], record["failures"]
            folder.save_round(record, {}, state.snapshot(), [], {})
            found.append(
                {"method": " + ".join(method) or "fedavg", "parameters": size, "sites": SITES, "round": number}
            )
            found[-1] |= {"seconds": round(time.perf_counter() - began, 4)} | memory()
    return found


def memory(process: int | str = "self") -> dict[str, float]:
    """MiB of a process: all of it, that which no file backs, and the most there has been of all."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    kib = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "RssAnon", "VmHWM"))}
    names = {"resident_mib": "VmRSS", "anonymous_mib": "RssAnon", "peak_mib": "VmHWM"}
    return {name: round(int(kib[key]) / 1024, 1) for name, key in names.items()}


def watch() -> Iterator[Row]:
    """The server of each method in a process of its own."""
    for method, rounds in SERVERS:
        command = [sys.executable, "-m", "benchmarks.scale", "one-server", json.dumps(method), str(rounds)]
        yield from json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)


def write(name: str, rows: Iterator[Row]) -> None:
    """Write rows as they come, and show them."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / name).open("w", encoding="utf-8", newline="") as stream:
        writer = None
        for row in rows:
            if writer is None:
                writer = csv.DictWriter(stream, list(row), lineterminator="\n")
                writer.writeheader()
            writer.writerow(row)
            stream.flush()
            print(row, flush=True)


def read(name: str) -> list[dict[str, str]]:
    """The rows of a table."""
    with (RESULTS / name).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def deployed_table() -> str:
    """A round in processes against a round in one."""
    rows = [
        [
            row["method"],
            row["backbone"],
            f"{int(row['parameters']) / 1e6:.1f} M",
            row["sites"],
            f"{int(row['bytes_down']) / 1e6:.1f} / {int(row['bytes_up']) / 1e6:.1f}",
            f"{float(row['in_process_s']):.2f}",
            f"{float(row['deployed_s']):.2f}",
            f"{float(row['more_s']):+.2f}",
            f"{float(row['server_mib']):,.0f}",
        ]
        for row in read("deployed.csv")
    ]
    head = [
        "method",
        "backbone",
        "parameters",
        "sites",
        "MB down / up and site",
        "one process, s",
        "deployed, s",
        "more, s",
        "server's memory, MiB",
    ]
    return table(head, rows)


def flat(rows: Sequence[dict[str, str]], column: str) -> float:
    """The most of a column after the first rounds, over its value when they had passed."""
    values = [float(row[column]) for row in rows]
    return max(values[SETTLED:]) / values[SETTLED]


def seconds_a_reply(rows: Sequence[dict[str, str]]) -> float:
    """What the server needs for one reply, in the median round."""
    return statistics.median_high(float(row["seconds"]) for row in rows) / int(rows[0]["sites"])


def server_table() -> str:
    """The server's memory over its rounds."""
    rows = []
    by_method: dict[str, list[dict[str, str]]] = {}
    for row in read("server.csv"):
        by_method.setdefault(row["method"], []).append(row)
    for method, found in by_method.items():
        rows.append(
            [
                method,
                found[0]["sites"],
                str(len(found)),
                f"{float(found[SETTLED]['anonymous_mib']):,.0f}",
                f"{flat(found, 'anonymous_mib'):.3f}",
                f"{float(found[SETTLED]['peak_mib']):,.0f}",
                f"{flat(found, 'peak_mib'):.3f}",
                f"{1e3 * seconds_a_reply(found):.0f}",
            ]
        )
    head = ["method", "sites", "rounds", f"MiB after round {SETTLED}", "most later / that"]
    return table([*head, f"peak MiB by round {SETTLED}", "peak later / that", "ms a reply"], rows)


def lines_table() -> str:
    """Seconds of a round beside training, by arithmetic: the slower line, both ways, and the server's work."""
    found = [row for row in read("server.csv") if row["method"] == "fedavg"]
    each = seconds_a_reply(found) / int(found[0]["parameters"])
    rows = []
    for name, values in (("ResNet-18", 11.2e6), ("ResNet-50", 23.6e6), ("ViT-B/16", 85.8e6)):
        for sites in (10, 100, 1000):
            cells = []
            for site, server in ((20, 1), (100, 1), (100, 10)):  # Mbit/s, Gbit/s
                bits = 32 * values
                both = 2 * max(bits / (site * 1e6), sites * bits / (server * 1e9))
                cells.append(f"{both + each * values * sites:,.0f}")
            rows.append([name, str(sites), f"{2 * sites * 4 * values / 1e9:,.1f}", *cells])
    head = ["backbone", "sites", "GB a round, both ways"]
    return table([*head, "sites 20 Mbit/s, server 1 Gbit/s", "100 Mbit/s, 1 Gbit/s", "100 Mbit/s, 10 Gbit/s"], rows)


PARTS = {"deployed": deployed_table, "server": server_table, "lines": lines_table}


def main(words: Sequence[str]) -> None:
    """See the module."""
    if words[:1] == ["one-server"]:
        torch.set_num_threads(1)
        print(json.dumps(serve(json.loads(words[1]), int(words[2]))))
        return
    measures = {"deployed": compare, "server": watch}
    for name in [word for word in words if word in measures] or ([] if "page" in words else measures):
        write(f"{name}.csv", measures[name]())
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8"), PARTS), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
