"""What a run with `training.dp_sgd` has spent: the (epsilon, delta) of the patients of each site, accounted by opacus.

A step at a site is a Gaussian mechanism on a Poisson sample of its patients, whom nobody else knows, so that sampling
does amplify here (I. Mironov et al., arXiv 1908.10530). A patient is at one site, and so a run has spent on each what
that site has. A round of `steps` steps counts where the site took part, whether or not its round was merged.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medfl.config import DpSgd
from medfl.errors import MedflError, install_extra
from medfl.metrics.record_types import RoundRecord
from medfl.runs.json_lines import append_json_line, keep_json_lines
from medfl.runs.privacy_ledger import read_releases

ORDERS = (*(1 + x / 10 for x in range(1, 10, 2)), *range(2, 33), *(40, 48, 64, 96, 128, 256, 512))
"""Orders of Renyi divergence that are tried. The bound holds at each, the smallest is taken; whole ones are quick."""


@dataclass
class PatientLedger:
    """The account of one run.

    Attributes:
        budget: the pipeline's `training.dp_sgd`.
        batch_size, rounds: of the pipeline; a site of n training patches draws a patient with probability
            batch_size / n in a step.
        path: `privacy.jsonl`: a line for every round, {"round", "sites": those drawn, "trained": {site: [samples,
            steps]} of those that replied}.
        releases: what it holds.
    """

    budget: DpSgd
    batch_size: int
    rounds: int
    path: Path
    releases: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        patient_epsilon(1.0, 0.5, 1, self.budget.delta)  # opacus is missed before the run and not in its first round
        keep_json_lines(self.path)
        self.releases = read_releases(self.path)

    def spend(self, record: RoundRecord) -> RoundRecord:
        """Note a finished round; its record with `privacy`: {"epsilon", "delta"} so far."""
        if record["participants"]:
            sites = record["sites"]
            trained = {
                name: [sites[name]["samples"], sites[name]["steps"]]
                for name in record["participants"]
                if name in sites and "samples" in sites[name]
            }
            release = {"round": record["round"], "sites": list(record["participants"]), "trained": trained}
            append_json_line(self.path, release)
            self.releases.append(release)
        spent = max((entry["epsilon"] for entry in self._sites().values()), default=0.0)
        return {**record, "privacy": {"epsilon": spent, "delta": self.budget.delta}}

    def facts(self) -> dict[str, Any]:
        """The `privacy` part of summary.json."""
        sites = self._sites()
        return {
            "unit": "patient",
            "epsilon": max((entry["epsilon"] for entry in sites.values()), default=0.0),
            "delta": self.budget.delta,
            "clip": self.budget.clip,
            "noise": max((entry["noise"] for entry in sites.values()), default=0.0),
            "seeded": self.budget.seeded,
            "accountant": f"opacus {version('opacus')}, Renyi, Poisson sampling of patients",
            "sites": sites,
        }

    def exhausted(self) -> bool:
        """Whether one more round would pass the budget of some site: its noise is that of the planned rounds."""
        return max(self._counts().values(), default=0) >= self.rounds

    def _counts(self) -> dict[str, int]:
        releases = self.releases
        if self.budget.seeded:
            releases = list({release["round"]: release for release in releases}.values())
        return dict(sorted(Counter(site for release in releases for site in release["sites"]).items()))

    def _sites(self) -> dict[str, dict[str, Any]]:
        trained: dict[str, list[int]] = {}
        for release in self.releases:
            trained |= release.get("trained", {})
        made = {}
        for name, count in self._counts().items():
            if name in trained:
                rate, steps = sampling_rate(self.batch_size, trained[name][0]), trained[name][1]
                noise = patient_noise(self.budget.epsilon, self.budget.delta, rate, self.rounds * steps)
                spent = patient_epsilon(noise, rate, count * steps, self.budget.delta)
                made[name] = {"rounds": count, "epsilon": spent, "noise": noise}
        return made


def sampling_rate(batch_size: int, patches: int) -> float:
    """With what probability a step draws a patient of a site: such that it has `batch_size` patches on average."""
    return min(1.0, batch_size / patches)


@lru_cache(maxsize=4096)
def patient_epsilon(noise: float, rate: float, steps: int, delta: float) -> float:
    """Epsilon at `delta` of steps with `noise` times the bound on a patient's gradient, each on a Poisson sample.

    Raises:
        MedflError: opacus is not installed.
    """
    try:
        from opacus.accountants.analysis import rdp
    except ImportError:
        raise MedflError(
            f"`training.dp_sgd` accounts with opacus, which is not installed here; install it with "
            f"{install_extra('privacy')}"
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the best of the orders may be the first or the last of them
        spent = rdp.compute_rdp(q=rate, noise_multiplier=noise, steps=steps, orders=list(ORDERS))
        return max(0.0, float(rdp.get_privacy_spent(orders=list(ORDERS), rdp=spent, delta=delta)[0]))


@lru_cache(maxsize=1024)
def patient_noise(budget: float, delta: float, rate: float, steps: int) -> float:
    """The smallest noise, to 1 %, whose `steps` steps spend an epsilon of `budget` at most.

    Raises:
        MedflError: opacus is not installed; there is none below a million.
    """
    low, high = 0.1, 1.0
    while patient_epsilon(high, rate, steps, delta) > budget:
        low, high = high, 2 * high
        if high > 1e6:
            raise MedflError(f"`training.dp_sgd.epsilon`: no noise below a million spends {budget:g}; raise it")
    while high / low > 1.005:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if patient_epsilon(middle, rate, steps, delta) > budget else (low, middle)
    return high
