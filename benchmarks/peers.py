"""The same small federation in medfl and in the simulators of Flower and NVIDIA FLARE, where they are installed.

    uv run python -m benchmarks.peers [medfl] [flower] [flare]    # measures; ten minutes on two cores
    uv run python -m benchmarks.performance                       # puts the table into docs/performance.md

Six sites of 320 drawn patches of 64 px, five classes, timm's `test_byobnet`, FedAvg, ten steps of 32 a round, one
thread a process, as many sites at a time as there are cores where the framework lets a user say so. Each program is
what a user would write and nothing more, run in a process of its own, with few rounds and with more: rounds a minute
come from the difference, so that start-up does not count. Frameworks take turns. Memory is the largest sum of all its
processes' own shares (PSS). Lines are those of the program that are neither blank nor the shared patches. What is not
installed is left out, and said. Writes docs/results/performance/peers.csv.

Flower is no extra of medfl: it asks for an older typer than medfl is tested with, and no set of packages holds both.
Make an environment for it, and let it see medfl's packages behind its own:

    python -m venv peers && peers/bin/pip install "flwr[simulation]>=1.20,<2"
    python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > peers/lib/python3.11/site-packages/zz_medfl.pth
    peers/bin/python -m benchmarks.peers
"""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.speed.quietness import Quietness
from benchmarks.tables import ROOT
from medfl.study.csv_rows import Row, write_table

OUT = ROOT / "docs" / "results" / "performance" / "peers.csv"
FEW, MANY = 2, 12
TURNS = 2
BETWEEN = 1.0  # seconds between two looks at the memory
LIMIT = 900  # seconds a program has
TASK = """
import functools
import numpy as np, torch
SITES, CLASSES, STEPS, BATCH = 6, 5, 10, 32
torch.set_num_threads(1)

@functools.cache
def patches(site):
    images = np.random.default_rng(site).integers(0, 120, (320, 64, 64, 3), dtype=np.uint8)
    labels = np.arange(320) % CLASSES
    for image, label in zip(images, labels):
        image[:, :, label % 3] += np.uint8(40 + 10 * label)
    return images, labels
"""
MEDFL = """
import sys
import medfl
from task import SITES, patches

names = [f"site-{k}" for k in range(SITES)]
data = {name: medfl.SitePatches(*patches(k), [f"{k}-{row // 4}" for row in range(320)]) for k, name in enumerate(names)}
medfl.run(
    {
        "name": "peers",
        "task": {"classes": ["a", "b", "c", "d", "e"]},
        "data": {"source": "program", "mode": "own", "size": 64},
        "sites": {"train": [{"name": name} for name in names]},
        "model": {"backbone": "test_byobnet"},
        "training": {"rounds": int(sys.argv[1]), "local_steps": 10, "workers": "auto", "evaluate_every": 1000},
        "evaluation": {"resamples": 100},
        "tracking": {"enabled": False},
    },
    patches=data,
    out="run",
)
"""
LOOP = """
import timm, torch
from task import BATCH, CLASSES, STEPS, patches

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = timm.create_model("test_byobnet", num_classes=CLASSES)

    def forward(self, x):
        return self.net(x)

def train(net, site):
    images, labels = patches(site)
    images = torch.from_numpy(images).permute(0, 3, 1, 2)
    labels = torch.from_numpy(labels)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    net.train()
    order = torch.randperm(len(labels))
    for step in range(STEPS):
        rows = order[step * BATCH:(step + 1) * BATCH]
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(images[rows].float() / 255), labels[rows])
        loss.backward()
        optimizer.step()
    return len(labels)
"""
FLOWER = """
import sys
import torch
from flwr.client import ClientApp, NumPyClient
from flwr.common import ndarrays_to_parameters
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.simulation import run_simulation
from loop import Net, train
from task import SITES

class Site(NumPyClient):
    def __init__(self, site):
        self.site, self.net = site, Net()

    def fit(self, parameters, config):
        state = self.net.state_dict()
        self.net.load_state_dict({k: torch.tensor(v) for k, v in zip(state, parameters)})
        count = train(self.net, self.site)
        return [v.numpy() for v in self.net.state_dict().values()], count, {}

def client(context):
    return Site(int(context.node_config["partition-id"])).to_client()

def server(context):
    first = ndarrays_to_parameters([v.numpy() for v in Net().state_dict().values()])
    strategy = FedAvg(
        fraction_evaluate=0.0, min_fit_clients=SITES, min_available_clients=SITES, initial_parameters=first
    )
    return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=int(sys.argv[1])))

run_simulation(
    server_app=ServerApp(server_fn=server),
    client_app=ClientApp(client_fn=client),
    num_supernodes=SITES,
    backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
)
"""
FLARE = """
import sys
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import SimEnv
from loop import Net
from task import SITES

recipe = FedAvgRecipe(
    name="peers", min_clients=SITES, num_rounds=int(sys.argv[1]), model=Net(), train_script="site_script.py"
)
recipe.execute(SimEnv(num_clients=SITES, workspace_root="workspace"))
"""
FLARE_SITE = """
import nvflare.client as flare
from loop import Net, train

flare.init()
site, net = int(flare.get_site_name().split("-")[1]) - 1, Net()
while flare.is_running():
    received = flare.receive()
    net.load_state_dict(received.params)
    count = train(net, site)
    flare.send(flare.FLModel(params=net.state_dict(), meta={"NUM_STEPS_CURRENT_ROUND": count}))
"""


@dataclass(frozen=True)
class Peer:
    """A framework.

    Attributes:
        modules: that have to be installed.
        files: of the program, by name; `main.py` is started with the number of rounds.
    """

    modules: tuple[str, ...]
    files: dict[str, str]

    @property
    def lines(self) -> int:
        """Lines that a user writes."""
        return sum(bool(line.strip()) for text in self.files.values() for line in text.splitlines())

    @property
    def absent(self) -> list[str]:
        """What of it is not installed."""
        return [name for name in self.modules if importlib.util.find_spec(name) is None]


PEERS = {
    "medfl": Peer(("medfl",), {"main.py": MEDFL}),
    "flower": Peer(("flwr", "ray"), {"main.py": FLOWER, "loop.py": LOOP}),
    "flare": Peer(("nvflare",), {"main.py": FLARE, "site_script.py": FLARE_SITE, "loop.py": LOOP}),
}


def play(peer: Peer, rounds: int) -> tuple[float, float]:
    """(seconds, largest MiB) of a program with so many rounds. Raises RuntimeError with the end of what it said."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, text in {**peer.files, "task.py": TASK}.items():
            (folder / file).write_text(text, encoding="utf-8")
        paths = [name, str(ROOT), os.environ.get("PYTHONPATH", "")]
        settings = {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "OMP_NUM_THREADS": "1",
            "MEDFL_CACHE": f"{name}/c",
        }
        began, most, seen = time.perf_counter(), 0.0, set[psutil.Process]()
        with (folder / "said").open("wb") as said:
            command = [sys.executable, "main.py", str(rounds)]
            process = psutil.Popen(
                command, cwd=folder, env=os.environ | settings, stdout=said, stderr=subprocess.STDOUT
            )
            try:
                while process.poll() is None and time.perf_counter() - began < LIMIT:
                    most = max(most, memory(process, seen))
                    time.sleep(BETWEEN)
            finally:
                seconds = time.perf_counter() - began
                for child in (*seen, process):  # those that it left behind
                    with suppress(psutil.Error):
                        child.kill()
        if process.wait() != 0:
            raise RuntimeError((folder / "said").read_text(encoding="utf-8", errors="replace")[-2000:])
        return seconds, most


def memory(process: psutil.Process, seen: set[psutil.Process]) -> float:
    """MiB of a process and all that it began, which are put into `seen`; what they share is counted once."""
    total = 0
    with suppress(psutil.Error):
        seen.update(process.children(recursive=True))
    for each in (process, *seen):
        with suppress(psutil.Error):  # one has ended meanwhile
            total += each.memory_full_info().pss
    return total / 2**20


def version(peer: Peer) -> str:
    """Of what its first module is installed from."""
    package = {"medfl": "medfl-pathology"}.get(peer.modules[0], peer.modules[0])
    return importlib.metadata.version(package)


def measure(names: Sequence[str], turns: int) -> Iterator[Row]:
    """Rows of the table, framework by framework in each turn. What fails is said, and left out."""
    quietness = Quietness()
    quietness.look()
    for turn in range(turns):
        for name in names:
            peer = PEERS[name]
            try:
                (few, _), (many, most) = play(peer, FEW), play(peer, MANY)
            except RuntimeError as error:
                print(f"{name}: failed\n{error}")
                continue
            quietness.look()
            row = {"framework": name, "version": version(peer), "turn": turn, "lines": peer.lines}
            row |= {"few_rounds": FEW, "few_s": round(few, 2), "many_rounds": MANY, "many_s": round(many, 2)}
            row |= {"peak_mib": round(most), "load": round(max(quietness.loads[-2:]), 2)}
            yield {column: str(value) for column, value in row.items()}


def main(names: list[str]) -> int:
    """Measure and print; exit status 1 where a program failed."""
    there = []
    if unknown := sorted(set(names) - PEERS.keys()):
        print(f"{', '.join(unknown)}: not among {', '.join(PEERS)}")
        return 2
    for name in names or PEERS:
        if absent := PEERS[name].absent:
            print(f"{name}: left out, since {' and '.join(absent)} is not installed here; see the top of {__name__}")
        else:
            there.append(name)
    others = [row for row in read() if row["framework"] not in there]
    rows: list[Row] = []
    for row in measure(there, TURNS):
        rows.append(row)
        write_table(OUT, [*others, *rows])
        print(row, flush=True)
    return int(len(rows) < TURNS * len(there))


def read() -> list[Row]:
    """The rows of the table; none before the first measurement."""
    if not OUT.is_file():
        return []
    with OUT.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
