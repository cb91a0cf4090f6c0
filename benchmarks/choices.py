"""How often ECGR's bf16 record leads to the same convergent set as the float32 record, in real training.

    uv run python -m benchmarks.choices [--out docs/results/performance/choices.csv]

trains federations in which every site keeps both records of the same steps and chooses from both; a choice is one
site's round. About 15 minutes of one core. LC25000 where it is at hand (see docs/bring-your-own-data.md), else
generated tissue. `host` needs no such test: it keeps the same float32 values as `device`, and the products are formed
from them in the same order.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from benchmarks.tables import ROOT
from medfl.data.atomic_file import write_text
from medfl.methods.core.chain import MethodChain
from medfl.methods.core.context import SiteContext
from medfl.methods.core.local_steps import Steps
from medfl.methods.ecgr import Ecgr, choose
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.prepare import prepare

OUT = ROOT / "docs" / "results" / "performance" / "choices.csv"
KEEPS = (0.25, 0.5, 0.75)
# name: rounds, local steps, and what differs from the base of the studies
SETTINGS = {
    "10 steps, label skew": (150, 10, ["sites.generate.dirichlet_alpha=0.1"]),
    "10 steps, stain": (60, 10, ["sites.generate.dirichlet_alpha=1000", "sites.generate.stain_strength=1"]),
    "10 steps, no momentum": (60, 10, ["training.optimizer.momentum=0"]),
    "25 steps, label skew": (50, 25, ["sites.generate.dirichlet_alpha=0.1"]),
    "50 steps, label skew": (25, 50, ["sites.generate.dirichlet_alpha=0.1"]),
}


@dataclass(frozen=True)
class Probe(Ecgr):
    """ECGR that keeps both records and notes what each would choose."""

    name: ClassVar[str] = "probe"
    found: dict[float, list[float]] = field(default_factory=lambda: defaultdict(list))

    def after_step(self, local: SiteContext) -> None:
        """Keep the step twice."""
        Steps(local, "bf16").record()
        super().after_step(local)

    def make_update(self, local: SiteContext) -> None:
        """Choose twice; go on with the float32 record."""
        exact, rounded = Steps(local, "device").gram(), Steps(local, "bf16").gram()
        for keep in KEEPS:
            sets = [set(choose(gram, keep, self.select).tolist()) for gram in (exact, rounded)]
            self.found[keep].append(len(sets[0] & sets[1]) / len(sets[0]))
        super().make_update(local)


def measure(name: str) -> list[dict[str, object]]:
    """Rows of one setting, one per `keep`."""
    rounds, steps, overrides = SETTINGS[name]
    base = ROOT / "pipelines" / "studies" / "base.yaml"
    stated = [f"training.rounds={rounds}", f"training.local_steps={steps}", "training.evaluate_every=1000"]
    stated.append("training.threads=1")
    prepared = prepare(load_pipeline(base, [*stated, "training.optimizer.lr=0.01", *overrides]))
    probe = Probe(storage="device")
    prepared.shared.chain = MethodChain([probe])
    prepared.federation(prepared.initial_state()).run()
    rows: list[dict[str, object]] = []
    for keep, overlaps in probe.found.items():
        differing = [overlap for overlap in overlaps if overlap < 1]
        rows.append(
            {
                "setting": name,
                "keep": keep,
                "choices": len(overlaps),
                "same": len(overlaps) - len(differing),
                "least_overlap": round(min(overlaps), 4),
            }
        )
    return rows


def main() -> None:
    """Measure every setting and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.choices")
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    rows = []
    for name in SETTINGS:
        for row in measure(name):
            rows.append(row)
            print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text.getvalue())


if __name__ == "__main__":
    main()
