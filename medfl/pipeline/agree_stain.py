"""The stain of a run: asked for, or taken from the shelf, once before its first round."""

from __future__ import annotations

from collections.abc import Callable

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
