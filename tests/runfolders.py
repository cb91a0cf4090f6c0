"""Run folders made by hand: every file of a finished run, a tiny network, no training."""

from __future__ import annotations

import atexit
import csv
import functools
import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import yaml
from safetensors.torch import save_file

from medfl import config
from medfl.metrics import Stability, measure
from medfl.tracking.local_database import prepare_database

CLASSES = ("lung_aca", "lung_n", "lung_scc")
SIZE = 32
BACKBONE = "test_resnet"


@dataclass
class FakeRun:
    """Writes a run folder step by step: `begin`, `play` rounds, `finish`.

    Attributes:
        skill: 0 gives chance, 4 near perfection at every site.
        data_seed: sites of one data seed have equal data digests.
        root: the path that the pipeline file states as its data root.
        failing: (round, site, reason) of sites that failed.
    """

    folder: Path
    train: Sequence[str] = ("north", "south")
    held_out: Sequence[str] = ("east", "west")
    rounds: int = 3
    seed: int = 0
    skill: float = 2.0
    data_seed: int = 0
    root: str = "/srv/patches"
    leaky: bool = False
    method: Sequence[Any] = ("ecgr",)
    failing: Sequence[tuple[int, str, str]] = ()
    monitored: bool = False
    records: list[dict[str, Any]] = field(default_factory=list)

    def begin(self) -> FakeRun:
        self.folder.mkdir(parents=True)
        (self.folder / "pipeline.yaml").write_text(yaml.safe_dump(self.pipeline()))
        with (self.folder / "allocation_summary.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["site", "role", "split", "class", "groups", "patches", "digest"])
            for site, role in self.roles.items():
                for split in ("train", "val", "test") if role == "train" else ("test",):
                    for number, name in enumerate(CLASSES):
                        digest = hashlib.sha256(f"{self.data_seed} {site} {split} {name}".encode()).hexdigest()[:16]
                        writer.writerow([site, role, split, name, 4, 20 + number, digest])
        return self

    def play(self, rounds: int | None = None) -> FakeRun:
        """Append the next rounds; all of them, with the closing evaluation, by default."""
        for _ in range(self.rounds + 1 - len(self.records) if rounds is None else rounds):
            record = self.record(len(self.records))
            self.records.append(record)
            with (self.folder / "rounds.jsonl").open("a") as file:
                file.write(json.dumps(record) + "\n")
        return self

    def finish(self) -> FakeRun:
        self.write_model()
        (self.folder / "summary.json").write_text(json.dumps(self.summary(), indent=2))
        return self

    def whole(self) -> FakeRun:
        return self.begin().play().finish()

    @property
    def roles(self) -> dict[str, str]:
        return dict.fromkeys(self.train, "train") | dict.fromkeys(self.held_out, "held_out")

    def pipeline(self) -> dict[str, Any]:
        sites = {role: [self.site(n) for n, r in self.roles.items() if r == role] for role in ("train", "held_out")}
        return {
            "name": "fake",
            "description": "Fake rounds for tests",
            "seed": self.seed,
            "task": {"classes": list(CLASSES)},
            "data": {
                "source": "folder",
                "root": self.root,
                "mode": "dealt",
                "size": SIZE,
                "source_groups": f"{self.root}/groups.csv",
                "cache": f"{self.root}/cache",
                "stain_strength": 0.5,
                "render": [{"LoadImage": {"reader": "PILReader", "where": f"{self.root}/lut.png"}}],
            },
            "sites": sites,
            "model": {"backbone": BACKBONE, "checkpoint": f"{self.root}/start.safetensors"},
            "training": {"rounds": self.rounds, "local_epochs": 2, "optimizer": {"name": "sgd", "lr": 0.05}},
            "method": list(self.method),
            "select": "last",
            "tracking": {"enabled": True, "experiment": "fake"},
        }

    def site(self, name: str) -> dict[str, Any]:
        return {
            "name": name,
            "description": f"Patches of {name}",
            "data": {"root": f"{self.root}/{name}", "source": "folder"},
            "labels": {f"{Path(self.root).name} adeno": "lung_aca"},
        }

    def record(self, t: int) -> dict[str, Any]:
        last = t == self.rounds
        lost = {site: reason for when, site, reason in self.failing if when == t}
        sites: dict[str, Any] = {}
        for number, site in enumerate(self.train):
            if site in lost:
                continue
            entry = {
                "role": "train",
                "val": self.measured(site, t, "val"),
                "bytes_down": 4000,
                "bytes_up": 4000 * (not last),
            }
            if not last:
                entry |= {"samples": 60 + number, "steps": 5, "train_loss": 1.0 / (t + 1) + number}
            sites[site] = entry
        for site in self.held_out if self.monitored else ():
            sites[site] = {
                "role": "held_out",
                "test": self.measured(site, t, "test"),
                "bytes_down": 4000,
                "bytes_up": 0,
            }
        update = {"mean_sq": 4.0 + t, "sq": 2.0, "cosine": None if t == 0 else 0.5, "inertia": {"conv1": 0.1}}
        return {
            "round": t,
            "evaluated": True,
            "counted": not last,
            "participants": [] if last else sorted(self.train),
            "failures": [{"site": site, "reason": reason} for site, reason in lost.items()],
            "sites": sites,
            "update": None if last else update,
            "lr_scale": 1.0,
        }

    def measured(self, site: str, t: int, split: str, resamples: int = 0) -> dict[str, Any]:
        """`measure` on drawn scores; the site "south" has no patch of the last class, so one AUROC is None."""
        rng = np.random.default_rng([self.seed, sum(site.encode()), t, len(split)])
        labels = rng.integers(0, len(CLASSES) - (site == "south"), 60)
        logits = rng.normal(size=(60, len(CLASSES))) + self.skill * np.eye(len(CLASSES))[labels]
        probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        return measure(probs, labels, np.arange(60) // 5, CLASSES, resamples=resamples)

    def summary(self) -> dict[str, Any]:
        selected = self.rounds
        sites = {
            site: {"role": role, **self.measured(site, selected, "test", 100)} for site, role in self.roles.items()
        }
        stability = Stability()
        for record in self.records:
            stability.update(record)
        return {
            "pipeline": "fake",
            "run": self.folder.name,
            "method": "ecgr",
            "seed": self.seed,
            "leaky": self.leaky,
            "selected_round": selected,
            "rounds": self.rounds,
            "classes": list(CLASSES),
            "sites": sites,
            "held_out": self.over(sites, "held_out"),
            "train_sites": self.over(sites, "train"),
            "stability": stability.summary(selected),
            "timings": {"total": 12.5, "train": 8.0, "evaluate": 1.0, "aggregate": 0.1, "track": 0.0},
            "versions": {"medfl": "0.1.0"},
            "failures": [{"round": when, "site": site, "reason": reason} for when, site, reason in self.failing],
            "model": {"backbone": BACKBONE, "parameters": 1, "fingerprint": "feed"},
            "mpp": None,
        }

    def over(self, sites: dict[str, Any], role: str) -> dict[str, Any]:
        chosen = {name: site for name, site in sites.items() if site["role"] == role}
        auroc = [site["auroc"] for site in chosen.values()]
        ece = [site["ece"] for site in chosen.values()]
        return {
            "sites": sorted(chosen),
            "mean_auroc": float(np.mean(auroc)) if auroc else None,
            "worst_auroc": min(auroc, default=None),
            "mean_ece": float(np.mean(ece)) if ece else None,
            "worst_ece": max(ece, default=None),
        }

    def write_model(self) -> None:
        """A tiny network with drawn weights and BatchNorm statistics; integer buffers are left out, as in a run."""
        torch.manual_seed(self.seed)
        net = timm.create_model(BACKBONE, num_classes=len(CLASSES))
        state = {name: tensor.clone() for name, tensor in net.state_dict().items() if tensor.is_floating_point()}
        for name, tensor in state.items():
            if name.endswith("running_mean"):
                tensor.normal_(std=0.1)
            elif tensor.dim() == 1 and not name.endswith("bias"):
                tensor.uniform_(0.5, 1.5)
        save_file(state, self.folder / "model.safetensors")
        facts = {
            "run": self.folder.name,
            "backbone": BACKBONE,
            "args": {},
            "classes": list(CLASSES),
            "size": SIZE,
            "mean": [0.5, 0.4, 0.6],
            "std": [0.2, 0.25, 0.3],
            "mpp": None,
            "render": [],
            "temperature": None,
            "fingerprint": "feed",
        }
        (self.folder / "model.json").write_text(json.dumps(facts))


def probabilities(folder: Path, patches: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Reference probabilities f64[N, C] of a run folder's model on uint8 [N, SIZE, SIZE, 3], straight from timm."""
    from safetensors.torch import load_file

    facts = json.loads((folder / "model.json").read_text())
    net = timm.create_model(facts["backbone"], num_classes=len(facts["classes"])).eval()
    net.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    x = patches.astype(np.float32) / 255
    x = ((x - np.float32(facts["mean"])) / np.float32(facts["std"])).transpose(0, 3, 1, 2)
    with torch.no_grad():
        logits = net(torch.from_numpy(np.ascontiguousarray(x))).double()
    return torch.softmax(logits, dim=1).numpy()


@functools.cache
def database() -> Path:
    """The sqlite file that all tracking tests of a process share. Tests keep apart by experiment."""
    folder = Path(tempfile.mkdtemp(prefix="medfl-mlflow-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return shutil.copy(empty_database(), folder / "mlflow.db")


@functools.cache
def empty_database() -> Path:
    """A database of MLflow's in which nothing is. Making one costs seconds, so all processes of the suite have one."""
    import sqlalchemy

    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", _without_waiting_for_the_disk)
    file = Path(os.environ["MEDFL_SESSION_CACHE"]).with_name("mlflow-empty.db")
    prepare_database(file, f"{file}-artifacts")
    return file


def _without_waiting_for_the_disk(connection: sqlite3.Connection, _: object) -> None:
    """Hundreds of small transactions, none of which has to outlast the machine."""
    connection.execute("PRAGMA synchronous = OFF")


def tracking(experiment: str) -> config.Tracking:
    """Tracking settings for the shared database."""
    return config.Tracking(uri=f"sqlite:///{database()}", experiment=experiment)
