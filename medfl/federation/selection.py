"""Which round's model counts: the best so far by a validation figure over training sites."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medfl.federation.server_state import FederationConfig, ServerState
from medfl.metrics.measure import mean_supported


def keep_best(config: FederationConfig, state: ServerState, sites: Mapping[str, Mapping[str, Any]]) -> None:
    """Keep the model entering the round in `state.best` if it is the best so far.

    Args:
        sites: site -> its entry of the round's record.
    """
    if isinstance(config.select, str):
        return
    metric, mode = config.select
    value = selection_value(metric, sites)
    if value is None:
        return
    best = state.best
    if best is None or (value > best[1] if mode == "max" else value < best[1]):
        state.best = (state.round, value, state.weights.clone(), state.buffers.clone())


def close_early(config: FederationConfig, state: ServerState) -> None:
    """Let the next round close the run where no evaluated round since the best one, `patience` rounds ago or more, has
    been better. What is decided stands in `state.closing`, so a resumed run ends where this one does."""
    waited = -1 if state.best is None else state.round - state.best[0]
    if config.patience is not None and waited >= config.patience and state.round + 1 < config.rounds:
        state.closing = state.round + 1


def selection_value(metric: str, sites: Mapping[str, Mapping[str, Any]]) -> float | None:
    """A selection metric (`val_mean_auroc`, `val_worst_auroc`, `val_mean_loss`, ...) over training sites' validation
    figures; None when no site supports it."""
    _, statistic, figure = metric.split("_", 2)
    values = [entry["val"].get(figure) for entry in sites.values() if entry["role"] == "train" and "val" in entry]
    if statistic == "worst":
        return min((value for value in values if value is not None), default=None)
    return mean_supported(values)
