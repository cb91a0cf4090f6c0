"""One method of federated learning: what it may do at each phase of a round, and what it declares about itself.

A method overrides the phases of a round in which it acts; a chain of methods calls them phase by phase, whatever their
order in the pipeline.

At a site (`SiteContext`), once a round unless said otherwise:

    before_training    move the start point of local training (`local.model.vector`)
    transform_batch    every step: change the normalised images before the forward pass
    perturb            every step: move `local.model.vector` for this step's gradient only: another vector until then
    modify_logits      every step: change the logits before the loss
    modify_loss        every step: add to the loss or replace it, seeing images, labels, logits and features
    ascend             every step: given the gradient, move `local.model.vector`; the gradient is then taken again there
    on_gradient        every step: look at the flat gradient, before any method edits it
    modify_gradient    every step: edit the flat gradient `local.gradient` before the optimiser's step
    optimizer_step     every step: take the optimiser's place (at most one method of a chain)
    after_step         every step: look at the weights
    on_last_gradient   look at the flat gradient of the last step, before that step
    make_update        set `local.displacement`, add vectors to `local.extra_up`, keep state in `local.new_state`
    personal_models    name further models the site measures beside the global one

At the server (`ServerContext`):

    send               vectors that go to a site beside the global model
    reject             say why a reply is not to be taken
    transform_reply    change a reply before it is taken
    aggregation_weight the factor of a reply's update in the sum (default: its samples)
    on_reply           look at an accepted reply; what it sums goes into `server.round_sums`
    aggregate          finish the mean of the round's updates; here and in `server_step` may `server.tensors` change
    server_step        what the server makes of the mean update
    aggregate_buffers  what the server makes of the mean buffers (BatchNorm statistics)
    on_validation      look at the training sites' validation figures, where the round measured them
    wire_bytes         how many bytes a message counts, where it would be encoded more tightly than it is here

What an update is: a site receives w, starts from s, ends at e. Its endpoint is s - u, where u is the plain
displacement s - e or what a method makes of it, and it replies with w - endpoint. FedAvg's new global model is then the
sample-weighted mean of endpoints. A site's own state always comes from its raw end e.

A whole method, FedProx's gradient term, is this (see docs/methods.md for its test):

    @dataclass(frozen=True)
    class Pull(Method):
        '''Each step also pulls the weights back towards the received model.'''

        name: ClassVar[str] = "pull"
        paper: ClassVar[str] = "arXiv:1812.06127"
        mu: float = 0.01

        def __post_init__(self) -> None:
            number(self.mu, "mu", 0.0, math.inf)

        def modify_gradient(self, local: SiteContext) -> None:
            local.gradient.add_(local.model.vector - local.received, alpha=self.mu)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from medfl.messages import Reply
from medfl.methods.core.context import ServerContext, SiteContext, TrainingBatch
from medfl.model.flat_model import FlatModel

WEIGHTS = -1  # in `Method.sends`: as many values as the model has weights, P


@dataclass(frozen=True)
class Method:
    """One method. Subclasses are frozen dataclasses whose fields are the hyper-parameters a pipeline may state.

    Attributes of the class:
        name: what a pipeline calls it.
        paper, title: where it is from: "arXiv:..." or "doi:...", and the title; shown in the model card and the report.
        neutral: parameters with which it is FedAvg, up to rounding; None where there are none.
        runs_last: it acts after the other methods in every phase, because it must have the last word on a gradient.
        replaces_optimiser: it takes the optimiser's steps itself; momentum, AdamW and weight decay are refused.
        local_norms: normalisation layers (affine parameters and statistics) stay at each site; no method sees them
            (`medfl.methods.core.local_layers`).
        sends: name -> length of the f32 vectors that every trained reply carries beside the update (`local.extra_up`);
            `WEIGHTS` is the model's P.
        keeps_updates: it combines the updates of a round itself and needs each of them, in `server.updates`.
        needs_features: its `modify_loss` reads `batch.features`.
        merges_itself: "sub-models" or "late replies" where it merges those by rules of its own; "" where it does not.
            It then goes only with methods that declare `submodel_safe` or `async_safe`, since nothing else is known
            to hold under such a merge.
        replaces_mean: it makes the new model from the round's updates without their weighted mean.
        rescales_updates: it divides w - e by the steps that the site says it took, as steps of SGD from w.
        guards_updates: no update of one site may pull the model away, so nothing else that sites send may either.
        owns_start: what it keeps at a site is relative to the received model, so nothing else may move the start.
        looks_ahead: what it does in a round depends on how many rounds there are, so that a run cannot be extended.
        private: a site's clipped update is all that may leave it, and all that may be acted on.
        weighs_equally: updates count once each in the sum, whatever the samples behind them.
        elementwise: `on_gradient`, `modify_gradient` and `optimizer_step` treat every value by itself, and of vectors
            `local.part(vector)` alone, so that they can be called for the gradient of one block after another.
    """

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    title: ClassVar[str] = ""
    neutral: ClassVar[Mapping[str, Any] | None] = None
    runs_last: ClassVar[bool] = False
    replaces_optimiser: ClassVar[bool] = False
    sends: ClassVar[Mapping[str, int]] = {}
    keeps_updates: ClassVar[bool] = False
    needs_features: ClassVar[bool] = False
    merges_itself: ClassVar[str] = ""
    async_safe: ClassVar[bool] = False
    submodel_safe: ClassVar[bool] = False
    replaces_mean: ClassVar[bool] = False
    rescales_updates: ClassVar[bool] = False
    guards_updates: ClassVar[bool] = False
    owns_start: ClassVar[bool] = False
    looks_ahead: ClassVar[bool] = False
    private: ClassVar[bool] = False
    weighs_equally: ClassVar[bool] = False
    elementwise: ClassVar[bool] = False

    @classmethod
    def acts_in(cls, phase: str) -> bool:
        """Whether it overrides a phase."""
        return getattr(cls, phase) is not getattr(Method, phase)

    @property
    def starts_elsewhere(self) -> bool:
        """Whether sites start from another model than the one they received."""
        return self.local_norms or self.acts_in("before_training")

    @property
    def min_replies(self) -> int:
        """How many replies a round needs to count."""
        return 1

    @property
    def local_norms(self) -> bool:
        """Whether normalisation layers stay at each site (they are still uploaded)."""
        return False

    def async_schedule(self, sites: int) -> tuple[int, float] | None:
        """Asks for the asynchronous schedule: for how many arrivals a merge waits, and for how many virtual seconds
        after the last of them. None leaves the schedule synchronous. Raises ValueError if `sites` are too few."""
        return None

    def check(self, model: FlatModel, optimizer: str, momentum: float, weight_decay: float) -> None:
        """Raise ValueError with one sentence if this method cannot work with the model or the local optimiser."""

    def prepare(self, model: FlatModel) -> None:
        """Take once what the method needs to know of the model, at a site and at the server alike."""

    def check_compatible(self, other: Method) -> None:
        """Raise ValueError with one sentence if this method cannot share a chain with another, for a reason that is in
        none of the rules of medfl.methods.core.compatibility."""

    def before_training(self, local: SiteContext) -> None:
        """Move the start point."""

    def transform_batch(self, local: SiteContext, images: Tensor) -> Tensor:
        """The images f32[N, 3, S, S] that go through the network, given the augmented ones, which are normalised by
        `local.model.mean` and `.std`."""
        return images

    def perturb(self, local: SiteContext) -> None:
        """Move `local.model.vector`, as it is called now and not before, in place: until the gradient of step number
        `local.step` + 1 is taken it is a vector of its own."""

    def modify_logits(self, local: SiteContext, logits: Tensor, labels: Tensor) -> Tensor:
        """The logits f32[N, C] that the loss sees."""
        return logits

    def modify_loss(self, local: SiteContext, batch: TrainingBatch, loss: Tensor) -> Tensor:
        """The loss f32[] whose gradient is taken, given the one so far."""
        return loss

    def ascend(self, local: SiteContext) -> None:
        """Move `local.model.vector` in place, given `local.gradient`; the gradient is then taken at that point."""

    def on_gradient(self, local: SiteContext) -> None:
        """Look at `local.gradient`, that of the loss alone, of step number `local.step` + 1."""

    def modify_gradient(self, local: SiteContext) -> None:
        """Edit `local.gradient` in place."""

    def optimizer_step(self, local: SiteContext) -> None:
        """Move `local.model.vector` by `local.gradient`, in the optimiser's place."""

    def after_step(self, local: SiteContext) -> None:
        """Look at `local.model.vector` after step number `local.step` (1..T)."""

    def on_last_gradient(self, local: SiteContext) -> None:
        """Look at `local.gradient` of step T."""

    def make_update(self, local: SiteContext) -> None:
        """Set `local.displacement`, fill `local.extra_up` and `local.new_state`."""

    def personal_models(
        self, state: Mapping[str, Tensor], received: Tensor
    ) -> Mapping[str, Tensor | tuple[Tensor, Tensor]]:
        """Further models that a site measures beside the global one, by name, from the site's state and the received
        weights: weights in wire order, or (weights, buffers) where the buffers are not the received ones."""
        return {}

    def send(self, server: ServerContext, site: str) -> dict[str, Tensor]:
        """Vectors (wire order) that go to a site beside the global model."""
        return {}

    def reject(self, server: ServerContext, reply: Reply) -> str | None:
        """Why a reply, whole and finite, is not to be taken, in one sentence; None takes it."""
        return None

    def transform_reply(self, server: ServerContext, reply: Reply) -> Reply:
        """The reply as it is taken."""
        return reply

    def aggregation_weight(self, server: ServerContext, reply: Reply) -> float | None:
        """Factor of a reply's update in the round's sum; None leaves it at the sample count."""
        return None

    def on_reply(self, server: ServerContext, reply: Reply) -> None:
        """Look at an accepted reply."""

    def aggregate(self, server: ServerContext, mean: Tensor) -> Tensor:
        """The round's mean update from the weighted mean f32[P], which may be written to and is not to be kept."""
        return mean

    def server_step(self, server: ServerContext, update: Tensor) -> Tensor:
        """What is subtracted from the global model, f32[P], given the mean update; not to be kept, as above."""
        return update

    def aggregate_buffers(self, server: ServerContext, mean: Tensor) -> Tensor:
        """The new global buffers f32[B], given the sample-weighted mean of the round's."""
        return mean

    def on_validation(self, server: ServerContext, sites: Mapping[str, Mapping[str, Any]]) -> None:
        """Look at the figures of this round's training sites: {site: {"val": ..., "val_<variant>": ...}}."""

    def wire_bytes(self, server: ServerContext, site: str, direction: str, dense: int) -> int:
        """Bytes of a training message to ("down") or from ("up") a site whose vectors take `dense` bytes here."""
        return dense

    def scratch_bytes(self, steps: int, padded: int) -> int:
        """Bytes of working memory this method needs at a site, for planning."""
        return 0


def require(condition: bool, text: str) -> None:
    """Raise ValueError with `text` unless the condition holds; for `__post_init__` of methods."""
    if not condition:
        raise ValueError(text)


def number(value: Any, key: str, low: float, high: float, *, open_low: bool = False) -> None:
    """Check a hyper-parameter: a finite number in [low, high] (or (low, high] with `open_low`)."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    inside = is_number and (low < value if open_low else low <= value) and value <= high
    upper = "" if math.isinf(high) else f" and at most {high:g}"
    require(inside, f"`{key}` must be a number {'above' if open_low else 'of at least'} {low:g}{upper}, not {value!r}")
