"""`medfl dossier`: a run as a folder that a quality manager files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfl.cli.commands.common import open_terminal
from medfl.errors import MedflError, RunFailed

if TYPE_CHECKING:
    from medfl.cli.terminal import Terminal


def dossier(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder; with --verify also a dossier's own.")],
    answers: Annotated[
        str | None, typer.Option(metavar="FILE", help="What no run can know: intended use, funding, and so on (YAML).")
    ] = None,
    out: Annotated[str | None, typer.Option(metavar="FOLDER", help="Default: dossier in the run folder.")] = None,
    template: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write a commented file for --answers, and nothing else.")
    ] = None,
    sign: Annotated[
        str | None, typer.Option(metavar="KEY", help="Sign its hashes with this RSA key (PEM), such as a kit's.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Say which file was changed since, and write nothing.")
    ] = False,
    certificate: Annotated[
        str | None, typer.Option(metavar="FILE", help="With --verify: whose signature it must have (PEM).")
    ] = None,
) -> None:
    """Write model card, TRIPOD+AI and CLAIM checklists, data sheets and hashes; what nobody answered is counted."""
    with open_terminal() as terminal:
        if verify or certificate:
            if answers or out or template or sign or not verify:
                raise MedflError("--verify looks and writes nothing; give it alone, or with --certificate")
            _verify(terminal, Path(run), Path(certificate) if certificate else None)
            return
        from medfl.report.dossier.write_dossier import write_dossier, write_template

        if template is not None:
            if answers or out or sign:
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

        if sign:  # before anything is written
            from medfl.engines.remote.file_signature import signing_key

            key = signing_key(Path(sign))
        made = write_dossier(Path(run), model_card, Path(out) if out else None, Path(answers) if answers else None)
        if sign:
            _sign(key, made.folder)
        for title, (missing, whole) in made.open_items.items():
            terminal.say(f"{title}: {missing} of {whole} items not answered")
        missing, whole = made.open_questions
        hint = "; write a file of them with --template" if missing and not answers else ""
        terminal.say(f"Questions that nobody answered: {missing} of {whole}{hint}", f"Dossier: {made.folder}")
        if sign:
            terminal.say(f"Signed: medfl dossier {made.folder} --verify --certificate CERTIFICATE checks it")


def _sign(key: object, folder: Path) -> None:
    from medfl.engines.remote.file_signature import write_signature
    from medfl.report.dossier.filed_sums import SIGNATURE, SUMS

    try:
        write_signature(key, folder / SUMS, folder / SIGNATURE)
    except OSError as error:
        raise MedflError(f"{folder} cannot be written ({error.strerror}); the dossier is there, not signed") from None


def _verify(terminal: Terminal, place: Path, certificate: Path | None) -> None:
    """Say what is as it was written. Raises RunFailed where something is not."""
    from medfl.report.dossier.filed_sums import SIGNATURE, SUMS, differences, dossier_in, stated_sums

    folder = dossier_in(place)
    problems = differences(folder)
    if certificate:
        from medfl.engines.remote.file_signature import is_signed

        if not is_signed(folder / SUMS, folder / SIGNATURE, certificate):
            problems.insert(0, f"{SUMS} is not what the key of {certificate} signed")
    if problems:
        raise RunFailed(f"{folder} is not as it was written: {'; '.join(problems)}")
    signed = f"signed by the key of {certificate}" if certificate else "no signature was asked for"
    note = "" if certificate or not (folder / SIGNATURE).is_file() else "; it has one: name --certificate to check it"
    terminal.say(f"{folder}: {len(stated_sums(folder))} files are as they were written, {signed}{note}")
