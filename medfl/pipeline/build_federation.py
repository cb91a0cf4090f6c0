"""From a pipeline to what its federation is to do: the plan of the rounds, and who trains when."""

from __future__ import annotations

import math

from medfl import config
from medfl.federation.asynchronous import SimulatedAsync, WallClockAsync
from medfl.federation.baselines import Centralised, LocalOnly
from medfl.federation.masked_rounds import MaskedRounds
from medfl.federation.schedule import Schedule, Synchronous
from medfl.federation.server_state import FederationConfig
from medfl.federation.virtual_time import SiteSpeed
from medfl.methods.core.chain import MethodChain
from medfl.model.flat_model import FlatModel


def federation_config(pipeline: config.Pipeline, model: FlatModel) -> FederationConfig:
    """What the round loop needs to know of a pipeline."""
    training, select = pipeline.training, pipeline.select
    return FederationConfig(
        train_sites=tuple(site.name for site in pipeline.train_sites),
        held_out_sites=tuple(site.name for site in pipeline.held_out_sites),
        rounds=training.rounds,
        seed=pipeline.seed,
        stages=model.layout.stages(),
        sites_per_round=training.sites_per_round,
        quorum=training.quorum,
        evaluate_every=training.evaluate_every,
        held_out_every=training.held_out_every,
        lr_scale=lambda t: lr_scale(training.schedule, t, training.rounds),
        select="last" if isinstance(select, str) else (select.metric, select.mode),
        patience=None if isinstance(select, str) else select.patience,
        momentum=training.optimizer.momentum,
        lr=training.optimizer.lr,
        site_speeds={site.name: SiteSpeed(**site.link.model_dump()) for site in pipeline.train_sites if site.link},
        densities={site.name: site.density for site in pipeline.train_sites},
        fingerprint=model.fingerprint(),
        masked=bool(training.secure_aggregation),
    )


def build_schedule(pipeline: config.Pipeline, chain: MethodChain) -> Schedule:
    """Who trains when: as the baseline or the method asks, and the clock says."""
    if pipeline.baseline == "local_only":
        return LocalOnly()
    if pipeline.baseline == "centralised":
        return Centralised()
    if chain.async_schedule(len(pipeline.train_sites)) is None:
        return MaskedRounds() if pipeline.training.secure_aggregation else Synchronous()
    return WallClockAsync() if pipeline.training.clock == "wall" else SimulatedAsync()


def lr_scale(schedule: config.LearningRateSchedule, t: int, rounds: int) -> float:
    """Factor on the learning rate in round t of `rounds`."""
    warm = min(1.0, (t + 1) / (schedule.warmup + 1))
    if schedule.name == "cosine":
        return warm * 0.5 * (1 + math.cos(math.pi * t / max(1, rounds)))
    if schedule.name == "step":
        return warm * schedule.gamma ** (t // schedule.every)
    return warm
