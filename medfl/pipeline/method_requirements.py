"""What a method needs of the pipeline it stands in. Checked once, when the pipeline is loaded."""

from __future__ import annotations

from typing import Any

from medfl.config import Pipeline
from medfl.errors import MedflError
from medfl.methods.core.chain import MethodChain, build_chain
from medfl.methods.core.masked_sums import LEAST_SITES, why_not_summed
from medfl.methods.differential_privacy import Dp, private_link
from medfl.runs.privacy_ledger import noise_for

LOOKS = {
    "before_training": "moves the start by what a site has kept",
    "transform_batch": "changes patches by what it has seen of others",
    "perturb": "takes gradients of its own",
    "ascend": "takes gradients of its own",
    "modify_logits": "counts the classes of a site",
    "modify_loss": "looks at the patches of a batch",
}
"""Phases in which a method sees the data of patients, whose gradients are not all that leaves them then."""
REMEDY = "remove the key or choose another method"


def check_method(pipeline: Pipeline, where: str) -> None:
    """Refuse a pipeline that lacks what its `method`, `baseline` or clock needs, or states what they cannot serve.

    What methods need of the model is checked where the two meet, in `MethodChain.check`.

    Raises:
        MedflError: a wrong chain (see `build_chain`), a missing `link`, keys that the method or the schedule cannot
            serve; each sentence begins with `where`.
    """
    try:
        chain = build_chain(pipeline.method)
        sites = pipeline.training.sites_per_round or len(pipeline.train_sites)
        asynchronous = chain.async_schedule(sites) is not None
        for reason in (
            _without_link(pipeline, chain) if asynchronous else None,
            _wrong_selection(pipeline, chain),
            _key_without_use(pipeline, chain, asynchronous),
            _without_a_sum(pipeline, chain),
            _rounded(pipeline),
            _beside_patient_privacy(pipeline, chain),
        ):
            if reason is not None:
                raise MedflError(reason)
    except MedflError as error:
        raise MedflError(f"{where}: {error}") from None


def with_noise(pipeline: Pipeline, where: str) -> Pipeline:
    """The pipeline with the noise of a `dp` that states an epsilon and none: the least that the planned rounds allow.

    Raises:
        MedflError: opacus is not installed, or no noise is enough; the sentence begins with `where`.
    """
    method: list[str | dict[str, Any]] = []
    for entry in pipeline.method:
        if isinstance(entry, dict) and entry.get("name") == Dp.name and entry.get("epsilon") and "noise" not in entry:
            link = private_link(build_chain([entry]))
            assert link is not None
            assert link.epsilon is not None
            try:
                noise = noise_for(link.epsilon, pipeline.training.rounds, link.delta)
            except MedflError as error:
                raise MedflError(f"{where}: {error}") from None
            method.append({**entry, "noise": noise})
        else:
            method.append(entry)
    return pipeline if method == pipeline.method else pipeline.model_copy(update={"method": method})


def _without_link(pipeline: Pipeline, chain: MethodChain) -> str | None:
    """Which site lacks the `link` that virtual time is made of."""
    if pipeline.training.clock == "wall":
        return None
    for site in pipeline.train_sites:
        if site.link is None:
            return (
                f"site {site.name} has no `link`, which the virtual clock of {chain} needs; add "
                f"`link: {{down: 50, up: 10, seconds_per_step: 0.1}}` (Mbit/s, seconds) to its site file"
            )
    return None


def _wrong_selection(pipeline: Pipeline, chain: MethodChain) -> str | None:
    """Why `select` cannot choose among rounds."""
    if pipeline.select == "last":
        return None
    if private_link(chain):
        return f"`select` picks a model by validation figures, which {chain} does not protect; leave it at last"
    if pipeline.training.clock == "wall":
        return (
            "`select` compares rounds by figures of all sites, and with `training.clock: wall` sites at work are not "
            "measured; leave it at last"
        )
    if pipeline.training.buffers == "local" or chain.local_norms:
        return "`select` must be last where normalisation is local: sites keep only their latest statistics"
    return None


def _without_a_sum(pipeline: Pipeline, chain: MethodChain) -> str | None:
    """Why updates cannot be summed behind masks."""
    training = pipeline.training
    if not training.secure_aggregation:
        return None
    key = "`training.secure_aggregation` shows the server a sum of updates"
    if pipeline.baseline:
        return f"{key}, and {pipeline.baseline} has none; {REMEDY}"
    if reason := why_not_summed(chain.methods):
        return f"{key} and none of them, and {reason}; {REMEDY}"
    if training.workers != 1:
        return f"{key}, and `training.workers` move sites between processes, which their keys do not leave; set it to 1"
    sites = training.sites_per_round or len(pipeline.train_sites)
    if sites < LEAST_SITES:
        return f"{key}, which hides no site among {sites}; have {LEAST_SITES} train in a round, or remove the key"
    return None


def _rounded(pipeline: Pipeline) -> str | None:
    """Why updates cannot travel as other numbers than they are."""
    if pipeline.transport is None or pipeline.transport.dtype == "float32":
        return None
    key = f"`transport.dtype: {pipeline.transport.dtype}` rounds the update that a site sends"
    if pipeline.baseline:
        return f"{key}, and with {pipeline.baseline} none travels; {REMEDY.removesuffix(' or choose another method')}"
    if pipeline.training.secure_aggregation:
        return f"{key}, and `training.secure_aggregation` sums whole numbers behind masks; remove one of them"
    return None


def _beside_patient_privacy(pipeline: Pipeline, chain: MethodChain) -> str | None:
    """What would look at patients past the noise, or take the place of it."""
    training = pipeline.training
    if training.dp_sgd is None:
        return None
    key = "`training.dp_sgd` bounds and noises each patient's gradient"
    for phase, what in LOOKS.items():
        if acting := chain.acting(phase):
            return f"{key}, and {acting[0].name} {what}; {REMEDY}"
    for name, applies in (
        (f"the baseline {pipeline.baseline} is", pipeline.baseline),
        ("`training.weighted_loss` tells a site's counts and is", training.weighted_loss),
        ("`model.mil` trains on bags and is", pipeline.model.mil),
        ("`data.source_groups: ignore` hides what is one patient's and is", pipeline.data.source_groups == "ignore"),
        ("`method.dp`, which has noise of its own, is", private_link(chain)),
    ):
        if applies:
            return f"{key}, and {name} not made for it; remove one of them"
    if pipeline.select != "last":
        return f"{key}, and `select` picks a model by validation figures, which have no noise; leave it at last"
    return None


def _key_without_use(pipeline: Pipeline, chain: MethodChain, asynchronous: bool) -> str | None:
    """Which key asks for something that there is not."""
    training, alone = pipeline.training, pipeline.baseline == "local_only"
    if training.sites_per_round and pipeline.baseline == "centralised":
        return f"`training.sites_per_round` draws sites for a round, which centralised does not have; {REMEDY}"
    if alone and pipeline.registry:
        return f"`registry` takes one global model, which local_only does not have; {REMEDY}"
    if alone and pipeline.select != "last":
        return f"`select` picks one global model, which local_only does not have; {REMEDY}"
    if training.augment.views and (acting := chain.acting("transform_batch")):
        name = acting[0].name
        return f"`training.augment.views` computes features once, and {name} changes images in every step; {REMEDY}"
    for key in ("clip", "layer_decay"):
        if getattr(training.optimizer, key) and (acting := chain.acting("optimizer_step")):
            return f"`training.optimizer.{key}` is of the optimiser, and {acting[0].name} has its own; {REMEDY}"
    if training.clock == "wall" and not asynchronous:
        return (
            f"`training.clock: wall` is for sites that do not wait for each other, which {pipeline.baseline or chain} "
            f"does not have; {REMEDY}"
        )
    return None
