"""Whether a run has come to a result. That it reached its end does not say so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medfl.metrics.record_types import RoundRecord

ROLES = {"held_out": "held-out", "train": "training"}


def why_untrained(rounds: Sequence[RoundRecord], selected: int) -> str | None:
    """Why the model entering round `selected` is the one the run began with, in a sentence; None where it was trained.

    Args:
        rounds: the records of the run.
        selected: the round whose model counts; that of the last record is `training.rounds`.
    """
    before = [record for record in rounds if record["round"] < selected]
    if any(record["counted"] for record in before):
        return None
    if not before:
        return f"the model of round {selected} is the one the run began with"
    last = before[-1]
    return (
        f"no round before round {selected} counted, so nothing was trained "
        f"(round {last['round']}: {_named(last['failures']) or 'no site was asked'})"
    )


def why_unmeasured(
    roles: Mapping[str, str], measured: Iterable[str], failures: Iterable[Mapping[str, Any]]
) -> str | None:
    """Why the model has no figures on test data, in a sentence; None where a site of every role has some.

    Args:
        roles: site -> "train" or "held_out", of all sites of the pipeline.
        measured: names of the sites that have figures.
        failures: {"site", "reason"} of those that were asked in vain.
    """
    present = {roles[name] for name in measured if name in roles}
    absent = [role for role in ROLES if role in roles.values() and role not in present]
    if not absent:
        return None
    who = "site" if not present else f"{ROLES[absent[0]]} site"
    reasons = _named(failure for failure in failures if roles.get(failure["site"]) in absent)
    return f"no {who} could be measured on test data ({reasons or 'none answered'})"


def _named(failures: Iterable[Mapping[str, Any]]) -> str:
    """Each site and its reason, once."""
    return "; ".join(dict.fromkeys(f"{failure['site']}: {failure['reason']}" for failure in failures))
