"""The three rules of FedGMR as functions of plain arrays: masks, aggregation, restoration. See medfl.methods.fedgmr."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn

from medfl.model.flat_model import FlatModel
from medfl.model.layout import Slot

RULES = ("mask_aware", "all_sites", "zero_filled")
LOWEST_FLOOR = 0.02  # of the density ladder, before any restoration
LADDER_STEP = 0.01  # the next rung is more than this above


def maskable_slots(model: FlatModel) -> list[Slot]:
    """Slots of the weights of convolutions and linear layers, but for the classifier; no biases, no normalisation."""
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    layers = {f"{name}.weight": module for name, module in model.net.named_modules() if isinstance(module, kinds)}
    classifier: Any = getattr(model.net, "pretrained_cfg", {}).get("classifier") or ()
    heads = [f"{name}.weight" for name in ([classifier] if isinstance(classifier, str) else classifier)]
    if not any(name in layers for name in heads):
        heads = [name for name, module in layers.items() if isinstance(module, nn.Linear)][-1:]
    return [slot for slot in model.layout.slots if slot.name in layers and slot.name not in heads]


@overload
def nested_masks(
    weights: Sequence[Any], importances: Sequence[Any], densities: Sequence[float], floor: float = ...
) -> list[list[Tensor]]: ...


@overload
def nested_masks(
    weights: Sequence[Any], importances: Sequence[Any], densities: Mapping[Any, float], floor: float = ...
) -> dict[Any, list[Tensor]]: ...


def nested_masks(
    weights: Sequence[Any],
    importances: Sequence[Any],
    densities: Sequence[float] | Mapping[Any, float],
    floor: float = 0.02,
) -> list[list[Tensor]] | dict[Any, list[Tensor]]:
    """Unstructured masks over the layers of a model, the smaller ones contained in the larger ones.

    In every layer the ceil(floor * numel) largest |W| are kept in any case. All other weights of all N form one
    ranking by importance, from which a mask of density rho is filled up to int(rho * N) weights. Ties go to the weight
    that comes first.

    Args:
        weights: per layer an array of weights.
        importances: per layer an array of the same shape, the larger the more important.
        densities: shares rho of the weights to keep, in (0, 1], one per sub-model.
        floor: share of every layer that is kept in any case.

    Returns:
        bool masks per density and layer, as a list in the order of `densities`, or with its keys where it is a mapping.

    Raises:
        ValueError: shapes differ, or a density or the floor is out of range.
    """
    layers = [torch.as_tensor(weight) for weight in weights]
    scores = [torch.as_tensor(importance) for importance in importances]
    if [layer.shape for layer in layers] != [score.shape for score in scores]:
        raise ValueError("weights and importances must have the same shapes")
    rhos = list(densities.values()) if isinstance(densities, Mapping) else list(densities)
    if not all(0 < rho <= 1 for rho in rhos) or not 0 <= floor <= 1:
        raise ValueError(f"densities must be in (0, 1] and the floor in [0, 1], not {rhos} and {floor}")
    kept = torch.cat([_largest(layer.reshape(-1).abs(), math.ceil(floor * layer.numel())) for layer in layers])
    ranking = torch.cat([score.reshape(-1).double() for score in scores])
    order = torch.argsort(ranking, descending=True, stable=True)
    rest = order[~kept[order]]
    masks = []
    for rho in rhos:
        mask = kept.clone()
        mask[rest[: max(0, int(rho * len(mask)) - int(kept.sum()))]] = True
        parts = torch.split(mask, [layer.numel() for layer in layers])
        masks.append([part.view(layer.shape) for part, layer in zip(parts, layers, strict=True)])
    return dict(zip(densities, masks, strict=True)) if isinstance(densities, Mapping) else masks


def _largest(values: Tensor, count: int) -> Tensor:
    """bool[n]: the `count` largest values, the first of equal ones."""
    mask = torch.zeros(len(values), dtype=torch.bool)
    mask[torch.argsort(values, descending=True, stable=True)[:count]] = True
    return mask


def aggregate(
    previous: Any,
    last: Iterable[Any],
    mask: Iterable[Any],
    age: Sequence[int],
    samples: Sequence[int],
    exponent: float = 0.6,
    rule: str = "mask_aware",
) -> Tensor:
    """The new global model from the last model of every site, one pass over the sites.

    s_i = (age_i + 1)^-exponent, p_i = s_i / sum_j s_j, and where a mask covers a coordinate

        W <- sum_i p_i n_i M_i w_i / sum_i p_i n_i M_i,    elsewhere W stays.

    Args:
        previous: [P], the global model W.
        last: per site [P], its last model w_i.
        mask: per site bool [P], its sub-model M_i.
        age: per site, rounds since its model was sent out.
        samples: per site n_i.
        exponent: of the staleness weights.
        rule: "mask_aware" as above; "all_sites" divides the masked differences w_i - W by sum_i p_i n_i instead;
            "zero_filled" averages M_i w_i over all sites, absent weights counting as zeros.

    Returns:
        [P], of the type of `previous`.
    """
    old: Tensor = torch.as_tensor(previous)
    staleness = [(float(a) + 1.0) ** -exponent for a in age]
    whole = math.fsum(staleness)
    shares: list[float] = [s / whole * float(n) for s, n in zip(staleness, samples, strict=True)]
    total, covered = torch.zeros_like(old), torch.zeros_like(old)
    for share, model, part in zip(shares, last, mask, strict=True):
        inside = torch.as_tensor(part).to(old)
        total.add_(torch.as_tensor(model).to(old) * inside, alpha=share)
        covered.add_(inside, alpha=share)
    if rule == "zero_filled":
        return total / math.fsum(shares)
    if rule == "all_sites":
        return old + (total - covered * old) / math.fsum(shares)
    return torch.where(covered > 0, total / covered.clamp_min(torch.finfo(old.dtype).tiny), old)


class Restoration:
    """When sub-models grow: a ladder of densities, climbed where validation accuracy has stopped to improve.

    The ladder is the set of initial densities, then 1. A site that has not improved for `patience` evaluations goes up
    one rung and then rests for twice as many. The server's floor, below which no site may be, goes up one rung when the
    global model has not improved for as long; the first such plateau only arms it, and after each step everything
    rests for `patience` - 1 evaluations. Accuracies are in [0, 1]; the least gain counts.

    Args:
        initial_density: per site, in (0, 1].
        patience: evaluations without improvement.
    """

    def __init__(self, initial_density: Sequence[float], patience: int) -> None:
        self.density = [float(rho) for rho in initial_density]
        self.patience = patience
        self.ladder = sorted(set(self.density))
        self.floor = LOWEST_FLOOR
        self.armed = False
        self.pause = 0
        self.rest = [0] * len(self.density)
        # The server's figures, then the sites'. A best of None is set anew by the next evaluation.
        self.best: list[float | None] = [None] * (len(self.density) + 1)
        self.latest: list[float | None] = [None] * (len(self.density) + 1)
        self.count = [0] * (len(self.density) + 1)

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Restoration:
        """The trigger that `vars` described."""
        trigger = cls(facts["density"], facts["patience"])
        vars(trigger).update(facts)
        return trigger

    def observe(
        self, server_accuracy: float | None, site_accuracy: Sequence[float | None]
    ) -> tuple[float, list[float]]:
        """Take in one evaluation.

        Args:
            server_accuracy: of the global model; an exact repeat of the figure before is ignored.
            site_accuracy: of each site's own sub-model; None where it was not re-scored, which is no improvement.

        Returns:
            The floor, and the density of every site from now on.
        """
        self.rest = [max(0, left - 1) for left in self.rest]
        if self.pause:
            self.pause -= 1
            accuracy = [old if new is None else new for old, new in zip(self.latest[1:], site_accuracy, strict=True)]
            self.latest[1:] = accuracy
            return self.floor, list(self.density)
        stalled = [self._stalled(j, figure) for j, figure in enumerate((server_accuracy, *site_accuracy))]
        if stalled[0] and not self.armed:
            self.armed, self.count[0] = True, 0
        elif stalled[0] and self.floor < 1:
            self.floor = self._next(self.floor)
            self.pause = self.patience - 1
            self.best = [None] * len(self.best)
        for i, rho in enumerate(self.density):
            if stalled[i + 1] and not self.rest[i]:
                self.density[i] = self._next(rho)
                self.rest[i] = 2 * self.patience
                self.best[i + 1] = self.best[0] = None
        for i, rho in enumerate(self.density):
            if rho < self.floor:
                self.density[i] = self.floor
                # Below any accuracy, so that even here a repeat of the server's figure counts for nothing.
                self.best[i + 1] = self.best[0] = -1.0
                self.count[i + 1] = self.count[0] = 0
        return self.floor, list(self.density)

    def _stalled(self, j: int, figure: float | None) -> bool:
        """Count one figure of the server (0) or a site (1...); whether it has been without improvement for too long."""
        figure = self.latest[j] if figure is None else figure
        repeated, self.latest[j] = figure == self.latest[j], figure
        best = self.best[j]
        if best is None:
            self.best[j], self.count[j] = (-1.0 if figure is None else figure), 0
        elif j == 0 and repeated:
            return False
        elif figure is None or figure <= best:
            self.count[j] += 1
            return self.count[j] >= self.patience
        else:
            self.best[j], self.count[j] = figure, 0
        return False

    def _next(self, rho: float) -> float:
        return min((rung for rung in self.ladder if rung > rho + LADDER_STEP), default=1.0)
