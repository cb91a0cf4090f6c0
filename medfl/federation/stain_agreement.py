"""Before the first round: what the training sites tell of their stains, and the stain that all are brought to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch

from medfl.data.normalise import mean_statistics, statistics_of
from medfl.errors import RunFailed
from medfl.federation.transport import Transport
from medfl.messages import Failure, Reply, StainRequest


@dataclass(frozen=True)
class StainAgreement:
    """What sites are sent of stains in every later message.

    Attributes:
        reference: numbers of the stain that patches are brought to (`medfl.data.normalise`); none where they stay.
        dyes: training site -> 27 numbers (`medfl.data.stain_exchange`); none where nothing is exchanged.
    """

    reference: tuple[float, ...] = ()
    dyes: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def others(self, site: str) -> tuple[float, ...]:
        """The dyes of every site but this one, one after another; whose they are is not told."""
        return tuple(number for name in sorted(self.dyes) if name != site for number in self.dyes[name])

    def to_facts(self) -> dict[str, Any]:
        """As plain values."""
        return {"reference": list(self.reference), "dyes": {site: list(own) for site, own in self.dyes.items()}}

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> StainAgreement:
        """Back from `to_facts`."""
        return cls(tuple(facts["reference"]), {site: tuple(own) for site, own in facts["dyes"].items()})


def agree(
    transport: Transport,
    sites: Sequence[str],
    method: str,
    dyes: bool,
    quorum: float,
    say: Callable[[str], None],
    round_: int = 0,
    accepted: Mapping[str, int] = MappingProxyType({}),
) -> StainAgreement:
    """Ask the training sites for their stains; each that tells counts the same.

    Args:
        transport: how sites are reached.
        sites: those that train.
        method: whose statistics make the reference; "" for none.
        dyes: whether dyes are exchanged.
        quorum: share of the sites that must answer, as in a round.
        say: told of each site that tells nothing.
        round_: in which it is asked.
        accepted: site -> its last reply that counted, where it has trained before.

    Raises:
        RunFailed: too few sites answer, or none of them, or with dyes only one, tells anything.
    """
    nothing = torch.empty(0)

    def question(site: str) -> StainRequest:
        last = accepted.get(site, -1)
        return StainRequest(round_, nothing, nothing, ("train",), last, method=method, dyes=dyes)

    replies, failures = [], []
    for answer in transport.call(sorted(sites), question):
        if isinstance(answer, Failure):
            failures.append(f"{answer.site}: {answer.reason}")
        else:
            replies.append(answer)
    for failure in failures:
        say(f"Stain: {failure}")
    if len(replies) < max(1, math.ceil(quorum * len(sites))):
        raise RunFailed(
            f"{len(replies)} of {len(sites)} training sites told their stain, fewer than `training.quorum` asks for "
            f"({'; '.join(failures)}); see what each said"
        )
    statistics = _told(replies, "statistics", say) if method else {}
    if method and not statistics:
        raise RunFailed(
            "no training site could tell its stain, so there is no federated reference; write `data.normalise: "
            f"{{method: {method}, reference: fixed}}`, or remove it"
        )
    by_site = _told(replies, "dyes", say) if dyes else {}
    if dyes and len(by_site) < 2:
        raise RunFailed(
            f"{len(by_site)} of {len(sites)} training sites told their dyes, and an exchange takes two; remove "
            f"`training.augment.exchange`"
        )
    reference = mean_statistics([statistics_of(own) for own in statistics.values()]).numbers if statistics else ()
    return StainAgreement(tuple(reference), by_site)


def _told(replies: Sequence[Reply], what: str, say: Callable[[str], None]) -> dict[str, tuple[float, ...]]:
    """Site -> its numbers, of those that tell any."""
    answers = {reply.site: reply.sums["train"][what] for reply in replies}
    for site in (site for site, numbers in answers.items() if numbers is None):
        say(f"Stain: {site} tells no {what}: too few source groups, or nothing to be measured in its patches")
    return {site: tuple(numbers) for site, numbers in answers.items() if numbers is not None}
