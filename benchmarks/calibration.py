"""Which calibration holds at hospitals that never trained: on simulated partitions of LC25000 and on real scanners.

    python -m benchmarks.calibration [--lc25000 DIR] [--mitoses DIR] [--out docs/results/calibration.csv]

trains linear heads on frozen ImageNet features (the extra `weights`), calibrates each finished model in every way of
`FITS`, measures it at the sites held out, and writes a line a run, way and site. Runs whose lines the file has are not
repeated. Some 20 minutes on one core.

LC25000: six of nine generated institutions train, class mixes from a Dirichlet of .5, a random laboratory of strength
.5 each. Mitoses (the folders SITE/CLASS/SLIDE/crop): two scanners train, the third and TCGA are held out.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tables import ROOT
from medfl.config import Pipeline
from medfl.data.atomic_file import write_text
from medfl.metrics.t_intervals import t_quantile
from medfl.pipeline.conclude import select_model
from medfl.pipeline.final_evaluation import calibrate, measure_sites
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.prepare import prepare

OUT = ROOT / "docs" / "results" / "calibration.csv"
FITS: dict[str, Any] = {
    "none": "none",
    "temperature": "temperature",
    "temperature, sites": {"weights": "sites"},
    "temperature, laboratories": {"laboratories": 4},
    "temperature, sites, laboratories": {"weights": "sites", "laboratories": 4},
    "vector": "vector",
    "vector, sites": {"method": "vector", "weights": "sites"},
    "vector, laboratories": {"method": "vector", "laboratories": 4},
}
FIGURES = ("nll", "debiased_ece", "ece", "ece_noise", "brier", "auroc", "accuracy")
COLUMNS = ("data", "run", "seed", "fit", "site", "n", "groups", "temperature", *FIGURES)
SCANNERS = ("hamamatsu-xr", "hamamatsu-s360", "aperio-cs2")
SEEDS = {"lc25000": range(1, 6), "mitoses": range(1, 4)}
Row = dict[str, str]
HEAD = {
    "model": {"weights": "package", "train": "head"},
    "disclosure": {"min_count": 1},
    "tracking": {"enabled": False},
    "training": {
        "rounds": 40,
        "batch_size": 32,
        "threads": 1,
        "optimizer": {"name": "sgd", "lr": 0.02, "momentum": 0.9, "weight_decay": 0.05},
        "schedule": {"name": "cosine"},
        "augment": {"flips": False, "rotate90": False},
        "evaluate_every": 40,
    },
}


def lc25000(root: str, seed: int) -> dict[str, dict[str, Any]]:
    """The one pipeline of a seed on generated institutions."""
    classes = ["lung_aca", "lung_n", "lung_scc", "colon_aca", "colon_n"]
    generated = {"count": 6, "held_out": 3, "patches": 180, "dirichlet_alpha": 0.5, "stain_strength": 0.5}
    own = {"name": "lc25000", "seed": seed, "task": {"classes": classes}, "sites": {"generate": generated}}
    return {"generated": HEAD | own | {"data": {"source": "lc25000", "root": root, "size": 128}}}


def mitoses(root: str, seed: int) -> dict[str, dict[str, Any]]:
    """A pipeline for each scanner left out; the central 64 pixels of a crop, 16 microns."""
    sites = {name: {"name": name, "mpp": 0.25, "data": {"root": f"{root}/{name}"}} for name in (*SCANNERS, "tcga")}
    data = {"source": "folder", "mode": "own", "size": 96, "mpp": 0.1667, "splits": {"val": 0.15, "test": 0.1}}
    own = {"name": "mitoses", "seed": seed, "task": {"classes": ["normal", "atypical"]}, "data": data}
    return {
        f"without {out}": HEAD
        | own
        | {
            "sites": {
                "train": [sites[name] for name in SCANNERS if name != out],
                "held_out": [sites[out], sites["tcga"]],
            }
        }
        for out in SCANNERS
    }


def with_fit(pipeline: Pipeline, wish: Any) -> Pipeline:
    """The pipeline, calibrating in another way."""
    evaluation = type(pipeline.evaluation).model_validate(pipeline.evaluation.model_dump() | {"calibrate": wish})
    return pipeline.model_copy(update={"evaluation": evaluation})


def measured(data: str, run: str, seed: int, pipeline: Mapping[str, Any]) -> Iterator[Row]:
    """Train once, then calibrate in every way and measure the sites held out."""
    setup = prepare(load_pipeline(dict(pipeline)))
    model = select_model(setup, setup.federation(setup.initial_state()).run())
    plain = setup.pipeline
    for fit, wish in FITS.items():
        setup.pipeline = with_fit(plain, wish)
        tuned = calibrate(setup, model, setup.config.train_sites)
        held_out = measure_sites(setup, model, tuned, setup.config.held_out_sites, resamples=0)
        for site, entry in sorted(held_out.sites.items()):
            entries = {"data": data, "run": run, "seed": seed, "fit": fit, "site": site, "n": entry["n"]}
            entries |= {"groups": entry["n_groups"], "temperature": tuned.temperature}
            figures: Mapping[str, Any] = entry
            yield {key: _text((entries | {name: figures[name] for name in FIGURES})[key]) for key in COLUMNS}


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)


def table(rows: Sequence[Row], data: str) -> str:
    """Means over the runs of the mean over their sites held out, and the difference in NLL and debiased ECE to the
    temperature, with its 95 % t interval over the runs."""
    runs = sorted({(row["run"], row["seed"]) for row in rows if row["data"] == data})
    means = {
        fit: np.array(
            [
                [
                    np.mean(
                        [float(r[key]) for r in rows if (r["data"], r["fit"], r["run"], r["seed"]) == (data, fit, *run)]
                    )
                    for key in FIGURES
                ]
                for run in runs
            ]
        )
        for fit in FITS
    }
    names = ["NLL", "debiased ECE", "ECE", "noise alone", "AUROC", "accuracy"]
    lines = [f"{data}, {len(runs)} runs", "", f"| fit | {' | '.join(names)} | NLL less | debiased ECE less |"]
    lines.append("|---|" + "--:|" * (len(names) + 2))
    shown = [FIGURES.index(key) for key in ("nll", "debiased_ece", "ece", "ece_noise", "auroc", "accuracy")]
    for fit, values in means.items():
        cells = [f"{values[:, k].mean():.3f}" for k in shown]
        cells += [_difference(values[:, k] - means["temperature"][:, k]) for k in (0, 1)]
        lines.append(f"| {fit} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _difference(values: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    """A mean with its 95 % interval over runs."""
    if len(values) < 2 or not values.any():
        return "-"
    half = t_quantile(len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return f"{values.mean():+.3f} [{values.mean() - half:+.3f}, {values.mean() + half:+.3f}]"


def main() -> None:
    """Measure, write the file, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lc25000", help="the folder of LC25000")
    parser.add_argument("--mitoses", help="the folder of SITE/CLASS/SLIDE/crop")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    rows: list[Row] = []
    if args.out.is_file():
        rows = list(csv.DictReader(io.StringIO(args.out.read_text(encoding="utf-8"))))
    for data, pipelines in (("lc25000", lc25000), ("mitoses", mitoses)):
        if root := getattr(args, data):
            for seed in SEEDS[data]:
                for run, pipeline in pipelines(root, seed).items():
                    if (data, run, str(seed)) not in {(row["data"], row["run"], row["seed"]) for row in rows}:
                        rows += measured(data, run, seed, pipeline)
                        _write(rows, args.out)
        if any(row["data"] == data for row in rows):
            print(table(rows, data), end="\n\n")


def _write(rows: Sequence[Row], out: Path) -> None:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(out, stream.getvalue())


if __name__ == "__main__":
    main()
