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
    request: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="A site's request, whose kit then holds no key; once for each."),
    ] = None,
    set_: Set = None,
) -> None:
    """Make a signed kit for the server and one for each site, with what that party needs and no more."""
    from medfl.pipeline.load_pipeline import load_pipeline

    loaded = load_pipeline(pipeline, set_ or [])
    launcher()
    with open_terminal() as terminal, about(pipeline):
        from medfl.engines.nvflare.startup_kit import make_kits
        from medfl.runs.digests import file_digest

        for notice in loaded.notices:
            terminal.say(notice)
        parties = make_kits(loaded, Path(out), server, port, [Path(file) for file in request or []])
        terminal.say(f"Kits in {out}: {', '.join(parties)}")
        for file in request or []:
            terminal.say(
                f"Request {file}: SHA-256 {file_digest(Path(file))}; ask the site whether it is the same there"
            )
        terminal.say(f"Hand each over privately and keep {Path(out) / 'authority'} to yourself: its key admits sites.")
        terminal.say("Each kit holds medfl itself, and its README.md says how to install, check and begin.")


@deploy_app.command()
def request(
    site: Annotated[str, typer.Argument(metavar="SITE", help="The site's name in the pipeline.")],
    out: Annotated[str, typer.Option(metavar="DIR", help="Where the two files go.")] = ".",
) -> None:
    """At a site: make its key, which stays there, and a request for a certificate from whoever makes the kits."""
    launcher()
    with open_terminal() as terminal:
        from medfl.config.site_config import SiteConfig
        from medfl.config.yaml_file import validate
        from medfl.engines.nvflare.site_keys import make_request
        from medfl.runs.digests import file_digest

        validate(SiteConfig, {"name": site}, Path("SITE"))
        key, file = make_request(site, Path(out))
        terminal.say(
            f"Key: {key}. It stays here, readable for you alone, and is nowhere else.",
            f"Request: {file}. Send it to whoever makes the kits (`medfl deploy kit ... --request {file.name}`), and "
            f"tell them its digest another way: SHA-256 {file_digest(file)}",
            f"When the kit has come, put {key.name} beside it; `medfl deploy join KIT` takes it from there.",
        )


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
def revoke(
    kit: Kit,
    which: Annotated[
        str | None, typer.Argument(metavar="SITE|SERIAL", help="Whose kits, or the serial of a certificate.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; the site is told.")] = "",
) -> None:
    """With the server's kit: admit a site's kits of today, or one kit, no more. Without a name: list who is revoked."""
    launcher()
    with open_terminal() as terminal:
        from medfl.engines.nvflare.preflight import kit_sites, server_kit
        from medfl.engines.remote.admission import revocations
        from medfl.engines.remote.admission import revoke as note
        from medfl.engines.remote.party_files import PARTY

        server_kit(Path(kit))
        if which is None:
            listed = [f"Revoked: {entry}" for entry in revocations(Path(kit) / PARTY)]
            terminal.say(*(listed or ["No kit is revoked"]))
            return
        entry = note(Path(kit) / PARTY, which, kit_sites(Path(kit)), reason)
        terminal.say(
            f"Revoked: {entry}.",
            "A run at work asks its sites anew after the round under way. A new kit, made from now on, is admitted.",
        )


@deploy_app.command()
def join(
    kit: Kit,
    timeout: Timeout = None,
    check: Annotated[
        bool, typer.Option("--check", help="Look at machine, kit, data and way to the server, and take no part.")
    ] = False,
    approve: Annotated[
        str | None,
        typer.Option(metavar="DIGEST", help="Approve the kit's pipeline, which you have read; also with --check."),
    ] = None,
    key: Annotated[
        str | None, typer.Option(metavar="FILE", help="The key that this site made; default: SITE.key beside the kit.")
    ] = None,
) -> None:
    """Take part with a site's kit, until Ctrl-C. Without a policy or an approval it says what would be done."""
    launcher()
    with open_terminal() as terminal:
        from medfl.engines.nvflare.site_keys import complete

        if (source := complete(Path(kit), Path(key) if key else None)) is not None:
            terminal.say(f"The key {source} is now in the kit")
        if check:
            from medfl.engines.nvflare.join_check import check_join

            failed = 0
            for line in check_join(Path(kit), approve):
                terminal.say(str(line))
                failed += not line.passed
            if failed:
                raise MedflError(f"{kit} cannot take part yet: {failed} of the checks failed; each says what to do")
            return
        from medfl.engines.nvflare.run_kit import join as take_part
        from medfl.runs.progress import ProgressCallbacks

        take_part(Path(kit), ProgressCallbacks(terminal.say), timeout, approve)
