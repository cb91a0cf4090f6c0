"""Commands that put the parties of a run into processes and onto machines of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medfl.cli.commands.common import PipelineFile, Set, about, launcher, open_terminal
from medfl.cli.commands.run_commands import RESUME, finish
from medfl.errors import MedflError

Kit = Annotated[str, typer.Argument(metavar="KIT", help="A kit's folder.")]
Timeout = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="Stop after this long; every finished round is kept.")
]

deploy_app = typer.Typer(
    help="Run a pipeline with server and sites apart.", no_args_is_help=True, rich_markup_mode=None
)


@deploy_app.command()
def poc(
    pipeline: PipelineFile,
    set_: Set = None,
    out: Annotated[str | None, typer.Option(help="Run folder; default runs/<name>-<time>.")] = None,
    timeout: Timeout = None,
) -> None:
    """Rehearse on this machine: a server and every site in a process of its own, over mutual TLS."""
    from medfl.pipeline.load_pipeline import load_pipeline

    loaded = load_pipeline(pipeline, set_ or [])
    with open_terminal(RESUME) as terminal, about(pipeline):
        from medfl.runs.progress import ProgressCallbacks

        terminal.say(f"{loaded.name}: {len(loaded.train_sites)} training sites, {len(loaded.held_out_sites)} held out")
        outcome = launcher().run(loaded, "poc", out, ProgressCallbacks(terminal.say, terminal.round), timeout)
        finish(outcome, loaded, terminal)


@deploy_app.command()
def kit(
    pipeline: PipelineFile,
    out: Annotated[str, typer.Option(metavar="DIR", help="Where the kits go, one folder a party.")],
    server: Annotated[str, typer.Option(metavar="HOST", help="The name by which sites reach the server.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port on which the server listens.")] = 8002,
    set_: Set = None,
) -> None:
    """Make a signed kit for the server and one for each site, with what that party needs and no more."""
    from medfl.pipeline.load_pipeline import load_pipeline

    loaded = load_pipeline(pipeline, set_ or [])
    launcher()
    with open_terminal() as terminal, about(pipeline):
        from medfl.engines.nvflare.startup_kit import make_kits

        for notice in loaded.notices:
            terminal.say(notice)
        parties = make_kits(loaded, Path(out), server, port)
        terminal.say(f"Kits in {out}: {', '.join(parties)}")
        terminal.say(f"Hand each over privately and keep {Path(out) / 'authority'} to yourself: its key admits sites.")
        terminal.say("Each kit holds medfl itself, and its README.md says how to install, check and begin.")


@deploy_app.command()
def serve(
    kit: Kit,
    out: Annotated[str | None, typer.Option(help="Run folder; one that holds a run of this kit goes on.")] = None,
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", help="Begin without sites that have not come by then.")
    ] = 600,
    timeout: Timeout = None,
    tries: Annotated[
        int, typer.Option(min=0, metavar="N", help="Go on by itself so often in a row without a new round.")
    ] = 5,
) -> None:
    """Run the server of a kit: wait for the sites, carry out the pipeline, write the run folder."""
    with open_terminal(RESUME) as terminal:
        from medfl.runs.progress import ProgressCallbacks

        progress = ProgressCallbacks(terminal.say, terminal.round)
        outcome = launcher().serve(Path(kit), out, wait, progress, timeout, tries)
        from medfl.pipeline.load_pipeline import load_pipeline

        finish(outcome, load_pipeline(outcome.folder.pipeline), terminal)


@deploy_app.command()
def join(
    kit: Kit,
    timeout: Timeout = None,
    check: Annotated[
        bool, typer.Option("--check", help="Look at machine, kit, data and way to the server, and take no part.")
    ] = False,
    approve: Annotated[
        str | None,
        typer.Option(metavar="DIGEST", help="Approve the kit's pipeline, which you have read, and take part."),
    ] = None,
) -> None:
    """Take part with a site's kit, until Ctrl-C. Without a policy or an approval it says what would be done."""
    launcher()
    with open_terminal() as terminal:
        if check:
            from medfl.engines.nvflare.join_check import check_join

            failed = 0
            for line in check_join(Path(kit)):
                terminal.say(str(line))
                failed += not line.passed
            if failed:
                raise MedflError(f"{kit} cannot take part yet: {failed} of the checks failed; each says what to do")
            return
        from medfl.engines.nvflare.run_kit import join as take_part
        from medfl.runs.progress import ProgressCallbacks

        take_part(Path(kit), ProgressCallbacks(terminal.say), timeout, approve)
