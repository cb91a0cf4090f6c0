"""The stain of a run: asked for, or taken from the shelf, once before its first round."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from medfl import config
from medfl.data.normalise import FIXED
from medfl.federation.server_state import ServerState
from medfl.federation.stain_agreement import StainAgreement, agree
from medfl.pipeline.prepare import RunSetup


def agree_stain(setup: RunSetup, state: ServerState, say: Callable[[str], None]) -> None:
    """Put into the state what sites are sent of stains, where the pipeline asks for any and it is not there yet.

    Raises:
        RunFailed: too few sites tell theirs.
    """
    normalise, exchange = setup.pipeline.data.normalise, bool(setup.pipeline.training.augment.exchange)
    if state.stains is not None or not (normalise or exchange):
        return
    if normalise and normalise.reference == "fixed":
        state.stains = StainAgreement(tuple(FIXED[normalise.method].numbers))
        return
    method = normalise.method if normalise else ""
    quorum = setup.pipeline.training.quorum
    state.stains = agree(setup.transport, setup.config.train_sites, method, exchange, quorum, say)


def stain_sentences(pipeline: config.Pipeline) -> Iterator[str]:
    """What a run does to stains, for people."""
    normalise, augment = pipeline.data.normalise, pipeline.training.augment
    if normalise:
        whose = "the mean of the training sites' own" if normalise.reference == "federated" else "a fixed one"
        numbers = {"reinhard": 6, "macenko": 8}[normalise.method]
        leaving = f"; {numbers} numbers leave each training site for it" if normalise.reference == "federated" else ""
        yield f"Stain: every site's patches are normalised ({normalise.method}) to {whose}{leaving}."
    if augment.stain:
        yield f"Stain: each training patch is seen as a random laboratory of strength {augment.stain:g} would show it."
    if augment.exchange:
        yield (
            f"Stain: {augment.exchange:.0%} of training patches get dyes drawn from those of other sites; 27 numbers "
            f"leave each training site, and reach the others, for it."
        )
