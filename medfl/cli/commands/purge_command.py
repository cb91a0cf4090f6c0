"""`medfl purge`: what names files or holds states leaves a run folder; what can be shown of it stays."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medfl.cli.commands.common import RunPath, Yes, confirm, open_terminal

Listed = Annotated[bool, typer.Option("--list", help="Say what would go, and remove nothing.")]


def purge(run: RunPath, yes: Yes = False, list_: Listed = False) -> None:
    """Remove from a run folder what names files or patients, holds patches, keys or what sites keep. Asks first."""
    with open_terminal() as terminal:
        from medfl.runs.folder import RunFolder
        from medfl.runs.purge import private_parts
        from medfl.runs.purge import purge as remove

        folder = RunFolder.open(Path(run))
        parts = [path.relative_to(folder.path).as_posix() for path in private_parts(folder.path)]
        terminal.say(
            f"From {run} go: {', '.join([*parts, 'the paths in pipeline.yaml'])}.",
            "Afterwards the run cannot be resumed, and no page with patches can be made of it. Patches in the cache "
            "and what was written elsewhere (predictions, MLflow) are not touched.",
        )
        if folder.summary.is_file():
            terminal.say("Report, dossier and figures stay; the model can be evaluated, registered and monitored.")
        else:
            terminal.say("The run has not finished: all that stays of it are the figures of its rounds.")
        if list_:
            return
        confirm(terminal, yes)
        remove(folder.path)
        terminal.say(f"{run} is purged")
