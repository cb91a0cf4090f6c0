"""FedGMR, federated learning with gradual model restoration for sites of unequal capacity. C. Ma et al.,
arXiv 2512.05372.

Each site trains a sub-model of its own density: the server cuts nested, unstructured masks over the weights of all
layers but the classifier (biases and normalisation stay whole), keeping a little of every layer and otherwise the
weights of the largest importance |dW * W|, dW being the change since the masks were last cut. Masks are cut anew after
every evaluated round. When validation accuracy stalls, a site's density climbs a ladder until it trains the whole
model. The server merges the last model of every site, coordinate by coordinate over the sites that hold it, weighted by
samples and staleness; sites arrive asynchronously.

This is the method as its authors meant it: masks are explicit (their release infers them from zeros), the merge is over
the last model of every site (the release's buffer is never used), the trigger reads validation data of the training
sites (the release reads the test set), importance is |dW * W| (the release falls back to |W|).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from medfl.messages import Reply
from medfl.methods.core.context import ServerContext, SiteContext
from medfl.methods.core.method import Method, number, require
from medfl.methods.fedgmr_rules import RULES, Restoration, aggregate, maskable_slots, nested_masks
from medfl.model.disk_vector import on_disk
from medfl.model.flat_model import FlatModel
from medfl.model.layout import Slot

__all__ = ["FedGMR", "Restoration", "aggregate", "nested_masks"]

MASK = "fedgmr.mask"
TIMES = ((0.2, 0.1), (0.4, 0.2), (0.6, 0.5), (0.8, 1.0))  # `restoration: time`: share of the rounds -> floor


@dataclass(frozen=True)
class FedGMR(Method):
    """Sub-models of each site's `density`, restored step by step to the whole model."""

    name: ClassVar[str] = "fedgmr"
    looks_ahead: ClassVar[bool] = True
    elementwise: ClassVar[bool] = True
    paper: ClassVar[str] = "arXiv:2512.05372"
    title: ClassVar[str] = (
        "FedGMR: Federated Learning with Gradual Model Restoration under Asynchrony and Model Heterogeneity"
    )
    merges_itself: ClassVar[str] = "sub-models"
    maskable: ClassVar[tuple[Slot, ...]] = ()  # once `prepare` has seen the model, that of the instance
    runs_last: ClassVar[bool] = True  # what other methods add to a gradient must not move a masked weight
    patience: int = 5
    exponent: float = 0.6
    floor: float = 0.02
    restoration: str = "plateau"
    aggregation: str = "mask_aware"
    schedule: str = "async"
    importance: str = "change"
    window: float = 0.5

    def __post_init__(self) -> None:
        number(self.patience, "patience", 1, math.inf)
        require(isinstance(self.patience, int), f"`patience` must be a whole number, not {self.patience!r}")
        number(self.exponent, "exponent", 0.0, math.inf)
        number(self.floor, "floor", 0.0, 1.0)
        number(self.window, "window", 0.0, math.inf)
        choices = {
            "restoration": ("plateau", "time", "none"),
            "aggregation": RULES,
            "schedule": ("async", "sync"),
            "importance": ("change", "magnitude"),
        }
        for key, allowed in choices.items():
            value = getattr(self, key)
            require(value in allowed, f"`{key}` is one of {', '.join(allowed)}, not {value!r}")

    def async_schedule(self, sites: int) -> tuple[int, float] | None:
        """The fastest tenth of the sites, and the window."""
        return None if self.schedule == "sync" else (max(1, sites // 10), self.window)

    def check(self, model: FlatModel, optimizer: str, momentum: float, weight_decay: float) -> None:
        """A model needs layers besides the classifier."""
        require(bool(maskable_slots(model)), f"{model.spec.backbone} has no layer besides its classifier to cut from")

    def prepare(self, model: FlatModel) -> None:
        """Where the weights lie that may be cut."""
        object.__setattr__(self, "maskable", tuple(maskable_slots(model)))  # no parameter, so that it is no field

    # ------------------------------------------------------------------------------------------------- at a site

    def before_training(self, local: SiteContext) -> None:
        """Start from the sub-model M * w."""
        if MASK in local.extra:
            local.model.vector.mul_(local.unpack(MASK))

    def modify_gradient(self, local: SiteContext) -> None:
        """Masked weights get no gradient, so that with SGD, momentum, weight decay or AdamW they stay zero."""
        if MASK in local.extra:
            assert local.gradient is not None
            local.gradient.mul_(local.part(local.vector(MASK)))

    def make_update(self, local: SiteContext) -> None:
        """Keep the trained sub-model, to be measured."""
        local.new_state["fedgmr.weights"] = local.model.weights()
        local.new_state["fedgmr.buffers"] = local.model.buffers()

    def personal_models(self, state: Mapping[str, Tensor], received: Tensor) -> Mapping[str, tuple[Tensor, Tensor]]:
        """The site's own sub-model, as it was last trained."""
        if "fedgmr.weights" not in state:
            return {}
        return {"submodel": (state["fedgmr.weights"], state["fedgmr.buffers"])}

    def scratch_bytes(self, steps: int, padded: int) -> int:
        """Mask and gradient."""
        return 2 * 4 * padded

    # ------------------------------------------------------------------------------------------------- at the server

    def send(self, server: ServerContext, site: str) -> dict[str, Tensor]:
        """The site's mask, which is noted as sent; a site of density 1 needs none."""
        facts = self._facts(server)
        if facts["cut"] is None:
            self._cut(server)
        before, mask = server.tensors.pop(f"fedgmr.sent.{site}", None), self._mask(server, site)
        if mask is not None:
            server.tensors[f"fedgmr.sent.{site}"] = mask
        facts["news"][site] = mask is not None and (before is None or not torch.equal(before, mask))
        return {} if mask is None else {MASK: mask}

    def wire_bytes(self, server: ServerContext, site: str, direction: str, dense: int) -> int:
        """4 bytes per weight of the sub-model, and one bit per maskable weight where the site's mask is new.

        To be measured at the site in evaluated rounds, the global model travels whole; that is no part of training.
        """
        mask = server.tensors.get(f"fedgmr.sent.{site}")
        if mask is None:
            return dense
        count = dense - 4 * int((~mask).sum())
        if direction == "down":
            count -= mask.numel()  # as it travels here
            if self._facts(server)["news"][site]:
                count += math.ceil(sum(slot.numel for slot in self.maskable) / 8)
        return count

    def on_reply(self, server: ServerContext, reply: Reply) -> None:
        """The site's model: w - update is zero where the mask is. It is kept for as long as the site is silent."""
        assert reply.update is not None
        server.round_sums[f"fedgmr.last.{reply.site}"] = on_disk(
            server.origin(reply.site) - reply.update, "the last model that the method keeps of a site takes"
        )

    def aggregate(self, server: ServerContext, mean: Tensor) -> Tensor:
        """Merge the last models of all sites that have ever replied; the round's mean is not used."""
        latest_replies: dict[str, list[int]] = self._facts(server)["held"]
        for site, samples in server.samples.items():
            last, mask = f"fedgmr.last.{site}", server.tensors.get(f"fedgmr.sent.{site}")
            server.tensors[last] = server.round_sums[last]
            server.tensors[f"fedgmr.part.{site}"] = torch.ones(1, dtype=torch.bool) if mask is None else mask.clone()
            latest_replies[site] = [server.round - server.ages[site], samples]
        sites = sorted(latest_replies)
        merged = aggregate(
            server.weights,
            (server.tensors[f"fedgmr.last.{site}"] for site in sites),
            (server.tensors[f"fedgmr.part.{site}"] for site in sites),
            [server.round - latest_replies[site][0] for site in sites],
            [latest_replies[site][1] for site in sites],
            self.exponent,
            self.aggregation,
        )
        return server.weights - merged

    def on_validation(self, server: ServerContext, sites: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore, and have the masks cut anew before the next model is sent."""
        facts = self._facts(server)
        facts["cut"] = None
        trigger = Restoration.of(facts["trigger"])
        if self.restoration == "plateau":
            scored = [entry["val"] for entry in sites.values() if entry.get("val", {}).get("accuracy") is not None]
            total = sum(figures["n"] for figures in scored)
            pooled = math.fsum(figures["n"] * figures["accuracy"] for figures in scored) / total if total else None
            own = [sites.get(site, {}).get("val_submodel", {}).get("accuracy") for site in server.sites]
            trigger.observe(pooled, own)
        elif self.restoration == "time":
            done = (server.round + 1) / server.rounds
            trigger.floor = max([trigger.floor, *(floor for share, floor in TIMES if done >= share)])
            trigger.density = [max(rho, trigger.floor) for rho in trigger.density]
        facts["trigger"] = vars(trigger)

    def _facts(self, server: ServerContext) -> dict[str, Any]:
        """The link's numbers: the trigger, densities at the last cut, what each site holds and was told."""
        if "fedgmr" not in server.json_state:
            initial = [server.densities.get(site, 1.0) for site in server.sites]
            trigger = vars(Restoration(initial, self.patience))
            server.json_state["fedgmr"] = {"trigger": trigger, "cut": None, "held": {}, "news": {}}
        facts: dict[str, Any] = server.json_state["fedgmr"]
        return facts

    def _cut(self, server: ServerContext) -> None:
        """Rank every coordinate by the smallest sub-model that holds it: nested masks are one byte a weight."""
        facts = self._facts(server)
        facts["cut"] = sorted(set(facts["trigger"]["density"]))
        weights, before = server.weights, server.tensors.get("fedgmr.then")
        importance = weights.abs()
        # In the first interval, and where nothing was merged since, there is no change to judge by.
        if self.importance == "change" and before is not None and not torch.equal(weights, before):
            importance.mul_((weights - before).abs_())

        def parts(vector: Tensor) -> list[Tensor]:
            return [vector[slot.start : slot.start + slot.numel] for slot in self.maskable]

        masks = nested_masks(parts(weights), parts(importance), facts["cut"], self.floor)
        rank = torch.zeros(len(weights), dtype=torch.uint8)
        for layers in masks:
            for part, mask in zip(parts(rank), layers, strict=True):
                part += (~mask).to(torch.uint8)
        server.tensors["fedgmr.rank"], server.tensors["fedgmr.then"] = rank, weights.clone()

    def _mask(self, server: ServerContext, site: str) -> Tensor | None:
        """bool[P]: the site's sub-model in the present cut; None where it is the whole model."""
        facts = self._facts(server)
        rho = facts["trigger"]["density"][server.sites.index(site)]
        return None if rho == 1 else server.tensors["fedgmr.rank"] <= facts["cut"].index(rho)
