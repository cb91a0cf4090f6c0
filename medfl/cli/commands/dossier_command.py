"""`medfl dossier`: a run as a folder that a quality manager files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medfl.cli.commands.common import RunPath, open_terminal
from medfl.errors import MedflError


def dossier(
    run: RunPath,
    answers: Annotated[
        str | None, typer.Option(metavar="FILE", help="What no run can know: intended use, funding, and so on (YAML).")
    ] = None,
    out: Annotated[str | None, typer.Option(metavar="FOLDER", help="Default: dossier in the run folder.")] = None,
    template: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write a commented file for --answers, and nothing else.")
    ] = None,
) -> None:
    """Write model card, TRIPOD+AI and CLAIM checklists, data sheets and hashes; what nobody answered is counted."""
    with open_terminal() as terminal:
        from medfl.report.dossier.write_dossier import write_dossier, write_template

        if template is not None:
            if answers or out:
                raise MedflError(
                    "--template writes a file of questions and nothing else; give it without other options"
                )
            write_template(Path(run), Path(template))
            terminal.say(
                f"Questions: {template}",
                f"Answer them, then: medfl dossier {run} --answers {template}",
            )
            return
        from medfl.tracking.model_card import model_card

        made = write_dossier(Path(run), model_card, Path(out) if out else None, Path(answers) if answers else None)
        for title, (missing, whole) in made.open_items.items():
            terminal.say(f"{title}: {missing} of {whole} items not answered")
        missing, whole = made.open_questions
        hint = "; write a file of them with --template" if missing and not answers else ""
        terminal.say(f"Questions that nobody answered: {missing} of {whole}{hint}", f"Dossier: {made.folder}")
