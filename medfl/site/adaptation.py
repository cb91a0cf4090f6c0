"""A model adapted to a site by unlabelled patches, and judged on others: what stays at the site is all but figures.

Half of a split's source groups, drawn by the run's seed, are adapted on; the model is judged on the rest, and so is the
model as it is. No label of the first half is read. docs/adaptation.md tells what each step does and when it helps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medfl.data.batches import Batches
from medfl.data.normalise import METHODS, NoStain, StainStatistics, normalise, stain_statistics, statistics_of
from medfl.data.patch_store import U8
from medfl.data.stain import Stain, apply, random_stain
from medfl.messages import AdaptRequest, Metrics, Reply
from medfl.metrics.auroc import FloatArray
from medfl.metrics.class_prior import estimated_mix, mix_shift, predicted_mix, proper_mix
from medfl.metrics.logit_calibration import Calibration
from medfl.metrics.remedies import PLAIN, Step, looks_changed, steps_of
from medfl.metrics.temperature import temperature_sums
from medfl.model.batchnorm import batchnorm_statistics_of
from medfl.seeds import seed_for
from medfl.site.measurement import Measurement, probabilities
from medfl.site.shared_model import SharedModel

Rows = NDArray[np.int64]
Look = Callable[[Rows], Tensor]
LEAST_GROUPS = 5
"""In either half; a site that asks for more behind a cell of what it tells needs as many."""
LEAST_PATCHES = 16
"""To adapt on."""
STAIN_PATCHES = 256
"""Whose stain is measured, at most."""
FARTHEST_MIX = 0.3
"""Between the class mix that the re-estimated model predicts and the one that is stated, in total variation."""


def halves(groups: NDArray[np.int64], rows: Rows, seed: int) -> tuple[Rows, Rows]:
    """Rows of a split to adapt on, shuffled, and rows to judge on, in order: no source group is in both, and of an
    odd number the judging half has one more."""
    rng = np.random.default_rng(seed)
    names = rng.permutation(np.unique(groups[rows]))
    adapting = np.isin(groups[rows], names[: len(names) // 2])
    return rng.permutation(rows[adapting]), rows[~adapting]


def mix_is_believable(predicted: FloatArray, plain: FloatArray, registry: FloatArray | None) -> bool:
    """Whether re-estimated BatchNorm statistics may stay, by class mixes [C].

    Re-estimation centres what the site shows, so that it predicts about the mix of training even of one class. Whether
    that is so only the registry can say: the predicted mix has to be near the stated one, and nearer than the plain
    model's. Where none is stated, it has to be near the plain model's.
    """
    far = float(np.abs(predicted - (plain if registry is None else registry)).sum() / 2)
    return far <= FARTHEST_MIX and (registry is None or far < float(np.abs(plain - registry).sum() / 2))


@dataclass(frozen=True)
class _Scores:
    """Calibrated logits f64[n, C] of the patches adapted on and of those judged."""

    adapting: Tensor
    judged: Tensor


class Adapter:
    """A model on one site's patches, adapted by some of them to judge others; the network ends as it began.

    Args:
        request: the remedies' numbers; its model is in the network.
        images: the site's patches.
        shared: the network.
        adapting, judged: rows to adapt on, of which no label is read, and rows to be scored.
        stated_mix: share of each class at the site; None where it states none.
        batch_size: patches in a forward pass.
        laboratory: whose stain all patches are seen in first; None as they are.
    """

    def __init__(
        self,
        request: AdaptRequest,
        images: Batches,
        shared: SharedModel,
        adapting: Rows,
        judged: Rows,
        stated_mix: Sequence[float] | None,
        batch_size: int,
        laboratory: Stain | None = None,
    ) -> None:
        self.request, self.images, self.shared = request, images, shared
        self.adapting, self.judged, self.batch_size = adapting, judged, batch_size
        self.stated_mix = proper_mix(stated_mix) if stated_mix else None
        self.laboratory = laboratory
        self.scored: dict[tuple[Step, ...], _Scores] = {}

    def adapted(self, steps: Sequence[Step]) -> tuple[Tensor, list[Step], dict[str, str]]:
        """Calibrated logits f64[n, C] of the judged rows after these steps; those done, those left out and why."""
        done: tuple[Step, ...] = ()
        left_out: dict[str, str] = {}
        shift: FloatArray | None = None
        for step in steps:
            if reason := self._why_not(step, done):
                left_out[step] = reason
                continue
            if step in ("class_mix", "em"):
                shift = mix_shift(self._mix(step, self._scores(done)), self.request.training_mix)
            done = (*done, step)
        logits = self._scores(looks_changed(done)).judged
        return logits if shift is None else logits + torch.from_numpy(shift), list(done), left_out

    def _why_not(self, step: Step, done: tuple[Step, ...]) -> str:
        """Why a step cannot be done behind these, in a word; "" where it can."""
        if step == "class_mix":
            return "no_class_mix" if self.stated_mix is None else ""
        if step == "em":
            return "" if done else "alone"
        if step == "normalise" and not self.request.reference:
            return "no_reference"
        try:
            adapted = self._scores((*done, step))
        except NoStain:
            return "no_tissue"
        if step == "normalise":
            return ""
        n = len(self.shared.model.spec.classes)
        predicted, plain = (predicted_mix(s.adapting.numpy(), n) for s in (adapted, self._scores(done)))
        return "" if mix_is_believable(predicted, plain, self.stated_mix) else "class_spread"

    def _mix(self, step: Step, scores: _Scores) -> FloatArray:
        """The site's class mix, stated or estimated."""
        if step == "class_mix" and self.stated_mix is not None:
            return self.stated_mix
        return estimated_mix(probabilities(scores.adapting), self.request.training_mix)

    def _scores(self, steps: tuple[Step, ...]) -> _Scores:
        """Calibrated logits of both halves after the steps that change the network or what it sees. Raises NoStain."""
        if steps not in self.scored:
            model, target = self.shared.model, self.request.reference if "normalise" in steps else ()
            own = self._stain(METHODS[len(target) > 6]) if target else None
            look = partial(self._seen, own=own, target=statistics_of(target) if target else None)
            layers = model.moving_batchnorm() if "batchnorm" in steps else []
            parts = np.array_split(self.adapting, -(-len(self.adapting) // self.batch_size))
            self.shared.net.eval()
            with self.shared.autocast(), batchnorm_statistics_of(layers, map(look, parts), model.net):
                self.scored[steps] = _Scores(self._logits(self.adapting, look), self._logits(self.judged, look))
        return self.scored[steps]

    def _logits(self, rows: Rows, look: Look) -> Tensor:
        """Calibrated logits f64[n, C] on the CPU of the network as it is now."""
        with torch.inference_mode():
            parts = self.images.parts(rows, self.batch_size)
            logits = [self.shared.model.net(look(part)).float().cpu().double() for part in parts]
        calibration = Calibration(self.request.temperature, self.request.scale, self.request.bias)
        return torch.from_numpy(calibration.apply(torch.cat(logits).numpy()))

    def _stain(self, method: str) -> StainStatistics:
        """The stain of the patches adapted on. Raises NoStain."""
        return stain_statistics(self._rendered(self.adapting[:STAIN_PATCHES]), method)

    def _rendered(self, rows: Rows) -> U8:
        """Patches u8[n, S, S, 3], as the laboratory asked for would show them."""
        images = self.images.store.images[rows]
        return apply(images, self.laboratory, self.request.laboratory) if self.laboratory else np.asarray(images)

    def _seen(self, rows: Rows, own: StainStatistics | None, target: StainStatistics | None) -> Tensor:
        """Patches f32[n, 3, S, S] as the network sees them."""
        images = self._rendered(rows)
        if own is not None and target is not None:
            images = normalise(images, own, target)
        return self.images.normalised(images)


def answer(request: AdaptRequest, images: Batches, shared: SharedModel, measurement: Measurement) -> Reply:
    """A site's reply. Arguments as of `figures_by_remedy`."""
    began, figures, sums = time.perf_counter(), {}, {}
    if request.temperatures:
        sums = {request.splits[0]: temperature_sums_of(request, images, shared, measurement)}
    else:
        figures = figures_by_remedy(request, images, shared, measurement)
    seconds = {"evaluate": time.perf_counter() - began}
    return Reply(images.store.site, request.round, metrics=figures, sums=sums, seconds=seconds)


def figures_by_remedy(
    request: AdaptRequest, images: Batches, shared: SharedModel, measurement: Measurement
) -> dict[str, dict[str, Any]]:
    """Figures of a site by remedy, and of none, all of the same patches; of no patch where there are too few.

    Args:
        request: what is asked; its model is in the network.
        images, shared: as for `Adapter`.
        measurement: figures of the site.
    """
    adapter, short = _adapter(request, images, shared, measurement)
    groups, made = len(np.unique(images.store.groups[adapter.adapting])), {}
    for remedy in (PLAIN, *request.remedies):
        steps = steps_of(remedy)
        logits, done, left_out = adapter.adapted(steps) if not short else _nothing(measurement, steps, short)
        figures = measurement.judged(request, adapter.judged[: len(logits)], logits)
        facts = {"steps": done, "left_out": left_out, "patches": len(adapter.adapting), "groups": groups}
        made[remedy] = figures | {"adaptation": facts}
    return made


def temperature_sums_of(
    request: AdaptRequest, images: Batches, shared: SharedModel, measurement: Measurement
) -> Metrics:
    """What a temperature of the adapted model is fitted by, of the judged half; of nothing where the remedy could not
    be done. Arguments as of `figures_by_remedy`."""
    adapter, short = _adapter(request, images, shared, measurement)
    (remedy,), store = request.remedies, images.store
    steps = steps_of(remedy)
    logits, _, left_out = adapter.adapted(steps) if not short else _nothing(measurement, steps, short)
    rows = adapter.judged[: 0 if short or left_out else len(logits)]
    scores = logits[: len(rows)].numpy()
    return {
        "temperatures": temperature_sums(
            scores, store.labels[rows], request.temperatures, store.groups[rows]
        ).to_lists()
    }


def _adapter(
    request: AdaptRequest, images: Batches, shared: SharedModel, measurement: Measurement
) -> tuple[Adapter, str]:
    """The halves of the split asked for, and why there is nothing to adapt on, "" where there is."""
    store, training = images.store, measurement.training
    rows, seed = store.splits[request.splits[0]], training.seed
    adapting, judged = halves(store.groups, rows, seed_for(seed, "adapt", store.site))
    short = _too_few(store.groups, adapting, judged, training.min_count)
    adapting = adapting[: 0 if short else request.patches]
    laboratory = random_stain(np.random.default_rng(seed_for(seed, "laboratory", store.site)))
    seen_by, batch_size = laboratory if request.laboratory else None, training.eval_batch_size
    return Adapter(request, images, shared, adapting, judged, training.class_mix, batch_size, seen_by), short


def _too_few(groups: NDArray[np.int64], adapting: Rows, judged: Rows, min_count: int) -> str:
    """Why there is nothing to adapt on, in a word; "" where there is."""
    if min(len(np.unique(groups[half])) for half in (adapting, judged)) < max(LEAST_GROUPS, min_count):
        return "few_groups"
    return "few_patches" if len(adapting) < LEAST_PATCHES else ""


def _nothing(measurement: Measurement, steps: Sequence[Step], reason: str) -> tuple[Tensor, list[Step], dict[str, str]]:
    return torch.empty(0, len(measurement.classes), dtype=torch.float64), [], dict.fromkeys(steps, reason)
