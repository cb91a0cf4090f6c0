"""A run that goes on to more rounds than it was planned for: `medfl resume RUN --rounds 40`.

Its rounds are then those of a run that was planned for that many from the start, byte for byte; so whatever looked
ahead to the old last round is refused. What the run came to before is kept in `earlier/round-<T>/`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from medfl import config
from medfl.data.atomic_file import write_text
from medfl.errors import MedflError
from medfl.federation.server_state import ServerState
from medfl.methods.core.chain import MethodChain
from medfl.pipeline.load_pipeline import dump_pipeline
from medfl.runs.folder import RunFolder
from medfl.site.site import Site

EARLIER = "earlier"


def extended(folder: RunFolder, pipeline: config.Pipeline, rounds: int) -> config.Pipeline:
    """The run's pipeline with another number of rounds.

    Raises:
        MedflError: as far as the pipeline says, the rounds so far would have been others under it.
    """
    if rounds < 1:
        raise MedflError(f"--rounds {rounds}: at least one round")
    if pipeline.training.schedule.name == "cosine":
        raise MedflError(
            f"--rounds {rounds}: with `training.schedule: cosine` the learning rate of every round so far was planned "
            f"for {pipeline.training.rounds} rounds; begin a new run, with `model.weights: {folder.model}` to start "
            f"from its model"
        )
    if pipeline.training.dp_sgd is not None:
        raise MedflError(
            f"--rounds {rounds}: the noise of every round so far was that with which `training.dp_sgd` lasts for "
            f"{pipeline.training.rounds} rounds; begin a new run"
        )
    training = pipeline.training.model_copy(update={"rounds": rounds})
    return pipeline.model_copy(update={"training": training}).with_notices(pipeline.notices)


def check_chain(chain: MethodChain, sites: int, rounds: int) -> None:
    """Raise MedflError for a method that looks ahead to the last round, or one whose last round merges what waits."""
    ahead = [method.name for method in chain.methods if method.looks_ahead]
    if ahead:
        raise MedflError(
            f"--rounds {rounds}: {ahead[0]} acts by how many rounds there are, so the rounds so far would have been "
            f"others; begin a new run"
        )
    if chain.async_schedule(sites) is not None:
        raise MedflError(
            f"--rounds {rounds}: {chain} does not wait for its sites, and what is on its way at the last round is "
            f"settled there; begin a new run"
        )


def reopen(folder: RunFolder, pipeline: config.Pipeline, state: ServerState) -> None:
    """Make a state that may be past its last round one that goes on, in place: that round only measured.

    Raises:
        MedflError: more rounds are played than the pipeline has now, the run ended early, or the last round's figures
            chose the model though the longer run would not measure there.
    """
    played, records = state.round, folder.records()
    over = 0 < played <= len(records) and not records[played - 1]["participants"]
    if over:
        state.round = played - 1
    rounds = pipeline.training.rounds
    if state.closing is not None:
        raise MedflError(
            f"--rounds {rounds}: {folder.path} ended early (`select.patience`, or the budget of `method.dp`), as it "
            f"would with more rounds planned; begin a new run"
        )
    if state.round >= rounds:
        raise MedflError(
            f"--rounds {rounds}: {folder.path} has trained {state.round} rounds already; name more than that"
        )
    unmeasured = state.round < played and state.round % pipeline.training.evaluate_every
    if unmeasured and state.best is not None and state.best[0] == state.round:
        raise MedflError(
            f"--rounds {rounds}: the model of round {state.round} was chosen (`select`) by figures that a longer run "
            f"does not take there (`training.evaluate_every`); begin a new run"
        )


def carry_over(
    folder: RunFolder, pipeline: config.Pipeline, state: ServerState, sites: Iterable[Site], seconds: dict[str, float]
) -> None:
    """Write a reopened run's checkpoint, rounds and pipeline. Wherever this is interrupted, the same command again goes
    on. Raises MedflError if there is no room."""
    staged = folder.pipeline.with_name(f"{folder.pipeline.name}.new")
    _keep_result(folder)
    write_text(staged, dump_pipeline(pipeline))
    folder.restate(staged, state, (site.memory() for site in sites), seconds)
    folder.truncate(state.round)
    os.replace(staged, folder.pipeline)


def _keep_result(folder: RunFolder) -> None:
    """Move what a finished run came to out of the way, with the notes on its copy in MLflow, which stays as it is."""
    if not folder.summary.is_file():
        return
    place = folder.path / EARLIER / f"round-{len(folder.records()) - 1}"
    place.mkdir(parents=True, exist_ok=True)
    files = (folder.model, folder.model_json, folder.curves, folder.tracking, folder.path / "report.html")
    for file in (*files, folder.summary):  # the summary last: with it the others are looked for again
        if file.is_file():
            os.replace(file, place / Path(file).name)
