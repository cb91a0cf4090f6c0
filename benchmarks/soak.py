"""A run killed at random moments and resumed: is it the run that nobody disturbed?

python -m benchmarks.soak [--kills 50] [--seed 0] [--out docs/results/reliability/soak.csv]

One tiny run is carried out undisturbed. Then it is begun again and again, each time killed (SIGKILL) at a moment drawn
over the undisturbed run's length, three times in ten a second time while it resumes, looked at, and resumed to its end.
This process only imports and forks, so that a child pays for no import and shares no thread or connection.
"""

from __future__ import annotations

import argparse
import csv
import faulthandler
import json
import multiprocessing
import os
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open

from benchmarks.pages import rewritten, table
from benchmarks.tables import ROOT

PAGE = ROOT / "docs" / "reliability.md"
RESULT = ROOT / "docs" / "results" / "reliability" / "soak.csv"
ROUNDS = 8
AGAIN = 0.3
PHASES = ("starting", "training", "writing", "closing", "tracking")
PIPELINE: dict[str, Any] = {
    "name": "soak",
    "seed": 5,
    "task": {"classes": ["lung_aca", "lung_n", "colon_n"]},
    "data": {"source": "tissue", "size": 32, "mpp": 0.5, "tissue": {"tiles_per_class": 24, "copies": 4, "size": 32}},
    "sites": {"generate": {"count": 3, "held_out": 1, "patches": 45, "dirichlet_alpha": 5.0}},
    "model": {"backbone": "test_byobnet"},
    "method": ["scaffold", "ecgr"],
    "training": {"rounds": ROUNDS, "batch_size": 8, "threads": 1, "optimizer": {"lr": 0.02}, "device": "cpu"},
    "evaluation": {"resamples": 100},
}


@dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
        case: number of the run it befell; a run killed twice has two rows.
        point_s: seconds from the start of the process to its kill.
        round: rounds in the checkpoint that was found then.
        phase: what the run was doing, as its folder tells.
        whole: every file of the folder could be read.
        resumed: the run was then resumed to its end (for the first of two kills: by way of the second).
        equal: its result and what MLflow has of it are those of the undisturbed run.
    """

    case: int
    point_s: float
    round: int
    phase: str
    whole: bool
    resumed: bool = False
    equal: bool = False


def child(work: Callable[[], None], log: Path, kill_after: float | None = None) -> int:
    """Run `work` in a fork, killed after some seconds if still at work. Its exit code: -9 if it was killed."""

    def quiet() -> None:
        with log.open("ab") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        assert sys.__stderr__ is not None
        faulthandler.dump_traceback_later(40, file=sys.__stderr__)  # who hangs says where
        work()

    process = multiprocessing.get_context("fork").Process(target=quiet)
    process.start()
    process.join(kill_after)
    if process.is_alive():
        process.kill()
        process.join()
    return int(process.exitcode or 0)


def carry_out(pipeline: Path, folder: Path) -> Callable[[], None]:
    """What an operator does: `run` where there is no run yet, else `resume`."""
    from medfl.pipeline.load_pipeline import load_pipeline
    from medfl.pipeline.run import resume, run

    def work() -> None:
        if (folder / "pipeline.yaml").exists():
            resume(folder)
        else:
            run(load_pipeline(pipeline), folder)

    return work


def checkpoint_round(folder: Path) -> int:
    """Rounds in the newest whole checkpoint."""
    for name in ("checkpoint", "checkpoint.old"):
        if (state := folder / name / "state.json").exists():
            return int(json.loads(state.read_text())["round"])
    return 0


def phase(folder: Path) -> str:
    """What a killed run was doing, as its folder tells."""
    if not (folder / "pipeline.yaml").exists():
        return "starting"
    if (folder / "summary.json").exists():
        return "tracking"
    done = checkpoint_round(folder)
    if done > ROUNDS:
        return "closing"
    lines = (folder / "rounds.jsonl").read_bytes().count(b"\n") if (folder / "rounds.jsonl").exists() else 0
    return "writing" if lines > done or (folder / "checkpoint.new").exists() else "training"


def damaged(folder: Path) -> list[str]:
    """Files that cannot be read, of those that have their final name. A torn last line of a `.jsonl` is none."""
    found = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        staged = path.name.startswith(".") or "checkpoint.new" in parts or any(p.endswith(".tmp") for p in parts)
        if staged or not path.is_file():
            continue
        try:
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".jsonl":
                for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
                    json.loads(line)
            elif path.suffix == ".safetensors" and "checkpoint.old" not in path.parts:
                with safe_open(path, "pt") as stream:
                    stream.keys()
            elif path.suffix == ".yaml":
                yaml.safe_load(path.read_text(encoding="utf-8"))
        except Exception as error:  # whatever a reader raises, the file is not one
            found.append(f"{path.relative_to(folder)}: {error}")
    return found


def result(folder: Path) -> dict[str, Any]:
    """What must not depend on kills: bytes of the files, the summary less its timings and its digest of itself."""
    names = ("allocation.csv", "rounds.jsonl", "model.safetensors", "model.json", "curves.json")
    summary = json.loads((folder / "summary.json").read_text())
    del summary["timings"], summary["digests"]
    return {name: (folder / name).read_bytes() for name in names} | {"summary": json.dumps(summary)}


def mirrored(folder: Path, database: Path) -> list[tuple[Any, ...]]:
    """What MLflow has of a run, from its tables: (site, status, key, step, value), a row for each time it was logged.

    Timings have the value 0 here: that they are there, and once, is compared; how long things took is not.
    """
    uuid = json.loads((folder / "tracking.json").read_text())["run_uuid"]
    query = """
        SELECT site.value, runs.status, metrics.key, metrics.step,
               CASE WHEN metrics.key LIKE 'timings/%' THEN 0 ELSE metrics.value END
        FROM metrics
        JOIN runs ON runs.run_uuid = metrics.run_uuid AND runs.lifecycle_stage = 'active'
        JOIN tags ON tags.run_uuid = runs.run_uuid AND tags.key = 'medfl.run_id' AND tags.value = ?
        LEFT JOIN tags AS site ON site.run_uuid = runs.run_uuid AND site.key = 'site'
    """
    with sqlite3.connect(database) as db:
        return sorted((row[0] or "", *row[1:]) for row in db.execute(query, (uuid,)))


def one_case(case: int, root: Path, length: float, rng: random.Random, left: int) -> Iterator[Kill]:
    """A run killed once or twice, and resumed; `equal` is filled in by comparing with the folder `undisturbed`."""
    folder, log = root / f"case-{case}" / "run", root / f"case-{case}.log"
    work = carry_out(root / "soak.yaml", folder)
    kills: list[Kill] = []
    wanted = 2 if left > 1 and rng.random() < AGAIN else 1
    while len(kills) < wanted:
        point = rng.uniform(0, length * (1 - sum(k.round for k in kills[-1:]) / (ROUNDS + 2)))
        if child(work, log, point) != -9:  # it was over first
            if kills:
                break
            continue
        bad = damaged(folder) if folder.exists() else []
        with log.open("a") as stream:
            stream.writelines(f"damaged: {line}\n" for line in bad)
        kills.append(Kill(case, round(point, 3), checkpoint_round(folder), phase(folder), not bad))
    resumed = child(work, log) == 0
    once = root / "undisturbed" / "run"
    database = root / "mlflow.db"
    equal = resumed and result(folder) == result(once) and mirrored(folder, database) == mirrored(once, database)
    for kill in kills:
        yield Kill(**(asdict(kill) | {"resumed": resumed, "equal": equal}))


def soak(count: int, seed: int, root: Path) -> Iterator[Kill]:
    """`count` kills."""
    import mlflow.tracking  # noqa: F401  # here once, for all forks

    import medfl.report.run_report
    import medfl.tracking.log_model  # noqa: F401

    os.environ["MEDFL_CACHE"] = str(root / "cache")
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    tracking = {"enabled": True, "uri": f"sqlite:///{root / 'mlflow.db'}", "experiment": "soak"}
    (root / "soak.yaml").write_text(yaml.safe_dump(PIPELINE | {"tracking": tracking}))
    lengths = []
    for name in ("warm", "undisturbed"):  # the first draws the tissue and makes the database
        began = time.perf_counter()
        if child(carry_out(root / "soak.yaml", root / name / "run"), root / f"{name}.log"):
            sys.exit((root / f"{name}.log").read_text())
        lengths.append(time.perf_counter() - began)
    print(f"undisturbed: {lengths[1]:.1f} s", flush=True)
    rng, case, left = random.Random(seed), 0, count
    while left:
        case += 1
        for kill in one_case(case, root, lengths[1], rng, left):
            left -= 1
            yield kill


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def soak_table() -> str:
    """Kills by phase."""
    rows = read(RESULT)

    def line(name: str, some: list[dict[str, str]]) -> list[str]:
        counts = [str(sum(row[key] == "True" for row in some)) for key in ("whole", "resumed", "equal")]
        return [name, str(len(some)), *counts]

    body = [line(name, [row for row in rows if row["phase"] == name]) for name in PHASES]
    head = ["killed while", "kills", "every file whole", "resumed to the end", "equal to the undisturbed run"]
    return table(head, [*body, line("all", rows)])


def soak_words() -> str:
    """The numbers of the table's sentence."""
    rows = read(RESULT)
    twice = len(rows) - len({row["case"] for row in rows})
    rounds = sorted({int(row["round"]) for row in rows})
    return (
        f"{len(rows)} kills of {len(rows) - twice} runs ({twice} of them killed a second time while they resumed), "
        f"with {rounds[0]} to {rounds[-1]} rounds on disk:"
    )


PARTS = {"soak": lambda: f"{soak_words()}\n\n{soak_table()}"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill a run at random moments, resume it, compare.")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    bad = 0
    with tempfile.TemporaryDirectory() as root, arguments.out.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Kill)], lineterminator="\n")
        writer.writeheader()
        for kill in soak(arguments.kills, arguments.seed, Path(root)):
            writer.writerow(asdict(kill))
            stream.flush()
            print(kill, flush=True)
            if not (kill.whole and kill.resumed and kill.equal):
                bad += 1
                print((Path(root) / f"case-{kill.case}.log").read_text()[-3000:], flush=True)
    if arguments.out.resolve() == RESULT and PAGE.exists():
        PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8"), PARTS), encoding="utf-8")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
