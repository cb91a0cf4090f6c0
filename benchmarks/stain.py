"""What the ways of dealing with stain reach at held-out sites, and how far apart sites are: docs/stain.md.

    MEDFL_LC25000=DIR python -m benchmarks.stain distances     # a minute
    MEDFL_LC25000=DIR python -m benchmarks.stain arms          # hours on two cores; goes on where it was stopped
    python -m benchmarks.stain write                           # rewrites the tables of docs/stain.md

The runs are those of `pipelines/lc25000_small.yaml` (frozen ImageNet features, nine sites of LC25000 at 128 px) with
two views of each training patch and 30 rounds. Every seed deals the patches anew.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

import numpy as np

from benchmarks.pages import rewritten, table
from medfl.data.partition import make_partition
from medfl.data.render import render
from medfl.data.stain import mean_tissue_rgb
from medfl.data.stained_store import in_stain, store_statistics
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.run import run

ROOT = Path(__file__).resolve().parent.parent
PIPELINE = ROOT / "pipelines" / "lc25000_small.yaml"
PAGE = ROOT / "docs" / "stain.md"
OUT = ROOT / "docs" / "results" / "stain"
STRENGTHS = (0.5, 0.25, 1.0)
SEEDS = (1, 2, 3)
COMMON = ("tracking.enabled=false", "training.rounds=30", "training.augment.views=2", "evaluation.resamples=100")
LABORATORY = 0.5  # strength of `augment.stain`, whatever the sites'
ARMS: dict[str, tuple[str, ...]] = {
    "none": (),
    "normalise: reinhard": ("data.normalise=reinhard",),
    "normalise: macenko": ("data.normalise=macenko",),
    "augment.stain": (f"training.augment.stain={LABORATORY}",),
    "augment.exchange": ("training.augment.exchange=0.5",),
    "normalise: reinhard, fixed": ("data.normalise={method: reinhard, reference: fixed}",),
    "normalise: macenko, fixed": ("data.normalise={method: macenko, reference: fixed}",),
    "reinhard and augment.stain": ("data.normalise=reinhard", f"training.augment.stain={LABORATORY}"),
}
COLUMNS = ("strength", "arm", "seed", "auroc", "worst", "ece", "nll", "signature")
APART = ("strength", "normalise", "nearest", "median")


def apart(colours: Sequence[np.ndarray]) -> tuple[float, float]:
    """(nearest, median) Euclidean distance in grey levels between the mean tissue colours of sites."""
    pairs = [float(np.linalg.norm(a - b)) for n, a in enumerate(colours) for b in colours[:n]]
    return min(pairs), float(np.median(pairs))


def distances() -> Iterator[dict[str, object]]:
    """How far apart the mean tissue colours of the nine sites are, plain and normalised to the federated mean."""
    for strength in sorted(STRENGTHS):
        pipeline = load_pipeline(str(PIPELINE), [f"data.stain_strength={strength}"])
        by_name = {site.name: site for site in pipeline.all_sites}
        stores = [render(pipeline, by_name[share.site], share) for share in make_partition(pipeline).sites]
        training = {site.name for site in pipeline.train_sites}
        for method in ("none", "reinhard", "macenko"):
            seen = stores
            if method != "none":
                own = {store.site: store_statistics(store, method) for store in stores}
                parts = [statistics for site, statistics in own.items() if statistics and site in training]
                reference = np.mean([part.numbers for part in parts], axis=0).tolist()
                seen = [in_stain(store, reference) for store in stores]
            near, middle = apart([mean_tissue_rgb(np.asarray(store.images)[::4]) for store in seen])
            yield {"strength": strength, "normalise": method, "nearest": f"{near:.1f}", "median": f"{middle:.1f}"}


def arms() -> None:
    """Run what is not in the CSV yet, a row a run."""
    file = OUT / "arms.csv"
    done = {(row["strength"], row["arm"], row["seed"]) for row in read(file)}
    for seed in SEEDS:
        for strength in STRENGTHS:
            for arm, settings in ARMS.items():
                if (str(strength), arm, str(seed)) in done:
                    continue
                overrides = [*COMMON, *settings, f"seed={seed}", f"data.stain_strength={strength}"]
                with tempfile.TemporaryDirectory() as folder:
                    summary = run(load_pipeline(str(PIPELINE), overrides), Path(folder) / "run").summary
                over = summary["held_out"]
                held_out = [site for site in summary["sites"].values() if site["role"] == "held_out"]
                row = {"strength": strength, "arm": arm, "seed": seed}
                row |= {"auroc": over["mean_auroc"], "worst": over["worst_auroc"], "ece": over["mean_ece"]}
                row |= {"nll": mean(site["nll"] for site in held_out if site["nll"] is not None)}
                append(file, row | {"signature": summary["site_signature"]["balanced_accuracy"]}, COLUMNS)
                print(row, flush=True)


def read(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV; none where there is no file."""
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def append(file: Path, row: dict[str, object], columns: Sequence[str]) -> None:
    """Add a row, and the heading to a new file; numbers with four digits."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = not file.is_file()
    with file.open("a", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow({key: f"{value:.4f}" if key in COLUMNS[3:] else value for key, value in row.items()})


def apart_table() -> str:
    """The distances, a row a strength."""
    rows = read(OUT / "distances.csv")
    methods = list(dict.fromkeys(row["normalise"] for row in rows))
    by_place = {(row["strength"], row["normalise"]): f"{row['nearest']} / {row['median']}" for row in rows}
    strengths = list(dict.fromkeys(row["strength"] for row in rows))
    heads = ["strength", *("as rendered" if method == "none" else f"`{method}`" for method in methods)]
    return table(heads, [[s, *(by_place[s, method] for method in methods)] for s in strengths])


def arms_table() -> str:
    """Means over the seeds: held-out AUROC (worst site), ECE, and the share of patches whose site is told."""
    rows, body = read(OUT / "arms.csv"), []
    strengths = sorted({row["strength"] for row in rows}, key=float)
    for arm in ARMS:
        cells = []
        for strength in strengths:
            own = [row for row in rows if (row["arm"], row["strength"]) == (arm, strength)]
            if not own:
                cells.append("not measured")
                continue
            auroc, worst, ece = (mean(float(row[key]) for row in own) for key in COLUMNS[3:6])
            signatures = [float(row["signature"]) for row in own if row["signature"]]
            told = f", {mean(signatures):.0%}" if signatures else ""
            seeds = "" if len(own) == len(SEEDS) else f" ({len(own)})"
            cells.append(f"{auroc:.3f} / {worst:.3f}, {ece:.3f}{told}{seeds}")
        body.append([arm, *cells])
    return table(["", *(f"strength {strength}" for strength in strengths)], body)


def main() -> None:
    """Measure or write, as asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stain")
    parser.add_argument("what", choices=["distances", "arms", "write"])
    what = parser.parse_args().what
    if what == "distances":
        (OUT / "distances.csv").unlink(missing_ok=True)
        for row in distances():
            append(OUT / "distances.csv", row, APART)
    if what == "arms":
        arms()
    if what == "write":
        parts = {"apart": apart_table, "arms": arms_table}
        PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8"), parts), encoding="utf-8")


if __name__ == "__main__":
    main()
