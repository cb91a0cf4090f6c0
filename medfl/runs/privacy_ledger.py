"""What a run with `dp` has spent: the (epsilon, delta) of its sites, accounted by opacus.

Every round that counted releases one sum of clipped updates with Gaussian noise. Who took part is in the round record
and follows from the pipeline's seed, so it is no secret and sampling amplifies nothing here: a site that was drawn in k
rounds has the guarantee of k Gaussian mechanisms in a row, which holds however sites are drawn, as long as the draw
looks at no data. Stated is the largest epsilon of any site.

Each release is written to `privacy.jsonl` before the model goes to a site. A run that is killed and resumed repeats
rounds after its last checkpoint, with new noise on the same data: such a round was released twice and counts twice.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfl.errors import MedflError, install_extra
from medfl.metrics.record_types import RoundRecord, UpdateRecord
from medfl.runs.json_lines import RESTORE, append_json_line, keep_json_lines, read_json_lines

if TYPE_CHECKING:
    from medfl.methods.core.chain import MethodChain
    from medfl.methods.differential_privacy import Dp

ORDERS = (
    *(1 + x / 100 for x in range(1, 10)),
    *(1 + x / 10 for x in range(1, 100)),
    *range(11, 64),
    *(64, 80, 96, 128, 192, 256, 384, 512, 1024, 2048),
)
"""Orders of Renyi divergence that are tried; the bound holds at each, and the smallest is taken."""


@dataclass
class Ledger:
    """The releases of one run.

    Attributes:
        link: the run's `dp`.
        path: `privacy.jsonl`: a line for every release, {"round", "sites": those drawn}.
        releases: what it holds.
    """

    link: Dp
    path: Path
    releases: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def open(cls, chain: MethodChain, path: Path) -> Ledger | None:
        """The ledger of a run, with what was released before it was resumed; None without `dp` in the chain.

        Raises:
            MedflError: opacus is not installed; the ledger is damaged.
        """
        from medfl.methods.differential_privacy import private_link  # brings torch in

        link = private_link(chain)
        if link is None:
            return None
        epsilon(link.noise, 1, link.delta)  # opacus is missed before the run and not in its first round
        keep_json_lines(path)  # without a torn line
        return cls(link, path, read_releases(path))

    def spend(self, record: RoundRecord) -> RoundRecord:
        """Note the release of a finished round; its record with `privacy`: {"epsilon", "delta"} so far.

        The lengths of the updates and of their mean are taken out of it, and drift and coherence with them: they are
        those of what the sites sent, and have no noise.
        """
        if record["counted"]:
            release = {"round": record["round"], "sites": list(record["participants"])}
            append_json_line(self.path, release)
            self.releases.append(release)
        spent = {"epsilon": self._epsilon(max(self.rounds().values(), default=0)), "delta": self.link.delta}
        update: UpdateRecord | None = None
        if record["update"] is not None:
            update = {**record["update"], "mean_sq": None, "sq": None}
        return {**record, "update": update, "privacy": spent}

    def rounds(self) -> dict[str, int]:
        """Site -> releases that it may have been part of. Seeded noise is the same when a round is repeated, so that
        such a round counts once."""
        releases = self.releases
        if self.link.seeded:
            releases = list({release["round"]: release for release in releases}.values())
        return dict(sorted(Counter(site for release in releases for site in release["sites"]).items()))

    def facts(self) -> dict[str, Any]:
        """The `privacy` part of summary.json."""
        rounds = self.rounds()
        return {
            "epsilon": self._epsilon(max(rounds.values(), default=0)),
            "delta": self.link.delta,
            "clip": self.link.clip,
            "noise": self.link.noise,
            "seeded": self.link.seeded,
            "accountant": f"opacus {version('opacus')}, Renyi, without amplification by sampling",
            "sites": {site: {"rounds": count, "epsilon": self._epsilon(count)} for site, count in rounds.items()},
        }

    def exhausted(self) -> bool:
        """Whether one more release of every site would pass the budget `epsilon`, where there is one."""
        if self.link.epsilon is None:
            return False
        return self._epsilon(max(self.rounds().values(), default=0) + 1) > self.link.epsilon

    def _epsilon(self, rounds: int) -> float:
        return epsilon(self.link.noise, rounds, self.link.delta)


def read_releases(path: Path) -> list[dict[str, Any]]:
    """The releases of a privacy.jsonl. Raises MedflError for a line that tells of none."""
    releases = read_json_lines(path)
    for number, release in enumerate(releases, start=1):
        sites = release.get("sites")
        if (
            type(release.get("round")) is not int
            or not isinstance(sites, list)
            or not all(isinstance(site, str) for site in sites)
        ):
            raise MedflError(f"{path}, line {number}: tells of no release ({{round, sites}}); {RESTORE}")
    return releases


def check_releases(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """A ledger can only grow: raise MedflError where it lacks a release that a round record tells of."""
    counted = [record for record in records if record["counted"] and "privacy" in record]
    noted = {(release["round"], *sorted(release["sites"])) for release in read_releases(path)}
    for record in counted:
        if (record["round"], *sorted(record["participants"])) not in noted:
            raise MedflError(
                f"{path} does not hold the release of round {record['round']}, which this run has made, so that what "
                f"was spent would be told too small; {RESTORE}"
            )


def epsilon(noise: float, rounds: int, delta: float) -> float:
    """Epsilon at `delta` of `rounds` Gaussian mechanisms in a row, each with `noise` times its sensitivity.

    Raises:
        MedflError: opacus is not installed.
    """
    try:
        from opacus.accountants import RDPAccountant
    except ImportError:
        raise MedflError(
            f"`method.dp` accounts with opacus, which is not installed here; install it with {install_extra('privacy')}"
        ) from None
    accountant = RDPAccountant()
    for _ in range(rounds):
        accountant.step(noise_multiplier=noise, sample_rate=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the best of the orders may be the first or the last of them
        return max(0.0, float(accountant.get_epsilon(delta, alphas=list(ORDERS))))


def noise_for(budget: float, rounds: int, delta: float) -> float:
    """The smallest noise, to 1 %, whose `rounds` releases spend an epsilon of `budget` at most.

    Raises:
        MedflError: opacus is not installed; there is none below a million.
    """
    low, high = 1e-2, 1e6
    if epsilon(high, rounds, delta) > budget:
        raise MedflError(f"`method.dp.epsilon`: no noise below {high:g} spends {budget:g} in {rounds} rounds; raise it")
    while high / low > 1.005:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if epsilon(middle, rounds, delta) > budget else (low, middle)
    return float(f"{high * 1.002:.3g}") if epsilon(float(f"{high * 1.002:.3g}"), rounds, delta) <= budget else high


def best_guess(epsilon: float, delta: float) -> float:
    """How often someone can be right at most who guesses from all models whether a site took part, either being as
    likely: (e^epsilon + delta) / (e^epsilon + 1), from the errors that any test must make under differential privacy
    (P. Kairouz et al., arXiv 1311.0776, section 2.1)."""
    outside = math.exp(-epsilon)
    return min(1.0, (1 + delta * outside) / (1 + outside))
