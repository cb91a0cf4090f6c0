"""Commands that put the parties of a run into processes and onto machines of their own."""

from __future__ import annotations

from typing import Annotated

import typer

from medfl.commands.common import PipelineFile, Set, about, launcher, open_terminal
from medfl.commands.runs import RESUME, finish

deploy_app = typer.Typer(
    help="Run a pipeline with server and sites apart.", no_args_is_help=True, rich_markup_mode=None
)


@deploy_app.command()
def poc(
    pipeline: PipelineFile,
    set_: Set = None,
    out: Annotated[str | None, typer.Option(help="Run folder; default runs/<name>-<time>.")] = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Stop after this long; every finished round is kept.")
    ] = None,
) -> None:
    """Rehearse on this machine: a server and every site in a process of its own, over mutual TLS."""
    from medfl.loading import load_pipeline

    loaded = load_pipeline(pipeline, set_ or [])
    with open_terminal(RESUME) as terminal, about(pipeline):
        from medfl.prepare import Watcher

        terminal.say(f"{loaded.name}: {len(loaded.train_sites)} training sites, {len(loaded.held_out_sites)} held out")
        outcome = launcher().run(loaded, "poc", out, Watcher(terminal.say, terminal.round), timeout)
        finish(outcome, loaded, terminal)
