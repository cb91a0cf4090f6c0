"""`medfl purge`: what names files or holds states leaves a run folder or a kit; what can be shown of it stays."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medfl.cli.commands.common import Yes, confirm, open_terminal

Purged = Annotated[str, typer.Argument(metavar="RUN|KIT", help="A run folder, or a site's kit whose runs are over.")]
Listed = Annotated[bool, typer.Option("--list", help="Say what would go, and remove nothing.")]
OF_A_RUN = (
    "Afterwards the run cannot be resumed, and no page with patches can be made of it. Patches in the cache and what "
    "was written elsewhere (predictions, MLflow) are not touched."
)
OF_A_KIT = (
    "Afterwards this site cannot go on with a run that is not over, nor, where its data were dealt, begin one with "
    "this kit. The audit log, the key, the policy and the site file stay. End `medfl deploy join` first."
)


def purge(folder: Purged, yes: Yes = False, list_: Listed = False) -> None:
    """Remove from a run folder or a kit what names files or patients, holds patches or what sites keep. Asks first."""
    with open_terminal() as terminal:
        from medfl.engines.remote.purge_party import is_kit, private_kit_parts, purge_kit
        from medfl.runs.folder import RunFolder
        from medfl.runs.purge import private_parts, purge

        path = Path(folder)
        of_kit = is_kit(path)
        parts = private_kit_parts(path) if of_kit else private_parts(RunFolder.open(path).path)
        names = [part.relative_to(path).as_posix() for part in parts]
        if of_kit:
            terminal.say(f"From {folder} go: {', '.join(names) or 'nothing, since none of it is there'}.", OF_A_KIT)
        else:
            terminal.say(f"From {folder} go: {', '.join([*names, 'the paths in pipeline.yaml'])}.", OF_A_RUN)
            terminal.say(
                "Report, dossier and figures stay; the model can be evaluated, registered and monitored."
                if RunFolder(path).summary.is_file()
                else "The run has not finished: all that stays of it are the figures of its rounds."
            )
        if list_:
            return
        confirm(terminal, yes)
        (purge_kit if of_kit else purge)(path)
        terminal.say(f"{folder} is purged")
