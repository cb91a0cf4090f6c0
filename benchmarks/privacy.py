"""The tables of docs/privacy.md: what epsilon costs, and what its noise does to a model.

uv run python -m benchmarks.privacy measure    # trains the small example again, seven settings by three seeds
uv run python -m benchmarks.privacy            # rewrites the generated parts; trains nothing
"""

from __future__ import annotations

import csv
import math
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from statistics import mean

from benchmarks.leaks import hospital_table, inversion_table
from benchmarks.pages import rewritten, table
from benchmarks.privacy_head import head_table
from benchmarks.tables import ROOT
from medfl.runs.privacy_ledger import best_guess, epsilon
from medfl.seeds import seed_for

PAGE = ROOT / "docs" / "privacy.md"
COST = ROOT / "docs" / "results" / "privacy" / "cost.csv"
PIPELINE = ROOT / "pipelines" / "methods" / "dp.yaml"
DELTA = 1e-5
NOISES = (0.5, 1.0, 2.0, 5.0, 10.0)
DRAWN = ((5, 5), (10, 10), (10, 5), (50, 10))
ROUNDS = (10, 50, 100)
FIXED = ("tracking.enabled=false", "training.device=cpu", "training.threads=1")
LARGE = 100
"""From here on an epsilon is printed without decimals."""


def most_often(sites: int, drawn: int, rounds: int) -> int:
    """How often the site was drawn that was drawn most, as `medfl.federation.rounds` draws with seed 0."""
    names = [f"site-{i:02d}" for i in range(sites)]
    if drawn == sites:
        return rounds
    counts: Counter[str] = Counter()
    for t in range(rounds):
        counts.update(random.Random(seed_for(0, "select", t)).sample(names, drawn))
    return max(counts.values())


def secret_sampling(noise: float, share: float, rounds: int) -> float:
    """Epsilon if every site drew its own lot in every round and nobody knew who took part (Poisson sampling)."""
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    for _ in range(rounds):
        accountant.step(noise_multiplier=noise, sample_rate=share)
    return float(accountant.get_epsilon(DELTA))


def epsilon_table() -> str:
    """Epsilon by sites, rounds and noise."""
    rows = []
    for sites, drawn in DRAWN:
        for rounds in ROUNDS:
            often = most_often(sites, drawn, rounds)
            spent = [epsilon(noise, often, DELTA) for noise in NOISES]
            rows.append([str(sites), str(drawn), str(rounds), str(often), *map(shown, spent)])
    head = ["sites", "drawn a round", "rounds", "rounds of the busiest site", *(f"noise {n:g}" for n in NOISES)]
    return table(head, rows)


def guess_table() -> str:
    """What an epsilon means for someone who guesses."""
    values = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0)
    return table(
        ["epsilon", *(f"{v:g}" for v in values)],
        [["right at most", *(f"{100 * best_guess(v, DELTA):.4g} %" for v in values)]],
    )


def sampling_table() -> str:
    """What amplification by secret sampling would give, and is not claimed."""
    rows = []
    for sites, drawn, rounds in ((10, 5, 50), (50, 10, 50)):
        for noise in (1.0, 5.0):
            stated = epsilon(noise, most_often(sites, drawn, rounds), DELTA)
            secret = secret_sampling(noise, drawn / sites, rounds)
            rows.append([f"{drawn} of {sites}", str(rounds), f"{noise:g}", shown(stated), shown(secret)])
    return table(["drawn", "rounds", "noise", "stated by medfl", "if who took part were secret"], rows)


def length_table() -> str:
    """How long the noise is against the longest mean update there can be."""
    models = {"test_efficientnet_gn": 99_967, "resnet18, group normalisation": 11_178_051}
    rows = []
    for name, size in models.items():
        for drawn in (5, 10, 100, 1000):
            ratios = [noise * math.sqrt(size) / drawn for noise in (0.01, 0.1, 1.0, 5.0)]
            rows.append([name, f"{size:,}", f"{drawn:,}", *(f"{ratio:.3g}" for ratio in ratios)])
    head = ["model", "parameters", "sites a round", *(f"noise {n:g}" for n in (0.01, 0.1, 1.0, 5.0))]
    return table(head, rows)


def cost_table() -> str:
    """The measured example."""
    with COST.open(encoding="utf-8", newline="") as stream:
        found = list(csv.DictReader(stream))
    rows = []
    for setting in dict.fromkeys(row["setting"] for row in found):
        own = [row for row in found if row["setting"] == setting]
        spent = "none" if not own[0]["epsilon"] else shown(float(own[0]["epsilon"]))
        cells = []
        for key in ("train_auroc", "held_out_auroc", "membership_auroc"):
            values = [float(row[key]) for row in own]
            cells.append(f"{mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
        rows.append([setting, spent, *cells])
    return table(["setting", "epsilon", "AUROC, training sites", "AUROC, held-out sites", "membership AUROC"], rows)


def shown(value: float) -> str:
    """An epsilon, to three digits."""
    return f"{value:,.0f}" if value >= LARGE else f"{value:.3g}"


def measure() -> None:
    """Train the example and write the CSV."""
    from medfl.pipeline.load_pipeline import load_pipeline
    from medfl.pipeline.run import run

    settings = {"FedAvg": "method=[]", "clipping alone": "method=[{name: dp, noise: 1.0e-9}]"}
    settings |= {f"noise {n:g}": f"method=[{{name: dp, noise: {n:g}}}]" for n in (0.01, 0.03, 0.1, 0.3, 1.0)}
    COST.parent.mkdir(parents=True, exist_ok=True)
    with COST.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["setting", "seed", "epsilon", "train_auroc", "held_out_auroc", "membership_auroc"])
        for setting, method in settings.items():
            for seed in (1, 2, 3):
                changed = [method, f"seed={seed}", *FIXED]
                with tempfile.TemporaryDirectory() as folder:
                    summary = run(load_pipeline(PIPELINE, changed), Path(folder) / "run").summary
                told = [e["membership"]["auroc"] for e in summary["sites"].values() if e.get("membership")]
                spent = summary.get("privacy", {}).get("epsilon", "") if setting.startswith("noise") else ""
                groups = (summary["train_sites"]["mean_auroc"], summary["held_out"]["mean_auroc"], mean(told))
                figures = [f"{value:.4f}" for value in groups]
                writer.writerow([setting, seed, spent and f"{spent:.6g}", *figures])
                stream.flush()
                print(setting, seed, *figures, flush=True)


PARTS = {
    "epsilon": epsilon_table,
    "guess": guess_table,
    "sampling": sampling_table,
    "length": length_table,
    "cost": cost_table,
    "head": head_table,
    "inversion": inversion_table,
    "hospital": hospital_table,
}


def main() -> None:
    """Rewrite the page, after measuring if asked."""
    if sys.argv[1:] == ["measure"]:
        measure()
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8"), PARTS), encoding="utf-8")
    print(f"Written: {PAGE}")


if __name__ == "__main__":
    main()
