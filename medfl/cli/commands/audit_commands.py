"""Commands on a party's audit log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfl.cli.standard_streams import write_data
from medfl.errors import MedflError

if TYPE_CHECKING:
    from medfl.engines.remote.audit_log import Verification

Place = Annotated[str, typer.Argument(help="A kit, a party's folder, the run folder of sites in processes, or a log.")]

audit_app = typer.Typer(help="What parties were asked and what left them.", no_args_is_help=True, rich_markup_mode=None)


@audit_app.command()
def show(
    place: Place,
    last: Annotated[int | None, typer.Option(min=1, metavar="N", help="The last N entries only.")] = None,
) -> None:
    """Print the entries of an audit log, a line each."""
    from medfl.engines.remote.audit_log import entries, sentence

    for log in _logs(place):
        lines = [sentence(entry) for entry in entries(log)]
        write_data(f"{log}\n")
        write_data("".join(f"{line}\n" for line in (lines[-last:] if last else lines)))


@audit_app.command()
def verify(
    place: Place,
    certificate: Annotated[
        str | None, typer.Option(metavar="FILE", help="Of the party, where the log is not in its kit.")
    ] = None,
) -> None:
    """Look for entries that were changed, are missing, or stand in another order."""
    from medfl.engines.remote.audit_log import certificate_beside
    from medfl.engines.remote.audit_log import verify as verify_log

    damaged = 0
    for log in _logs(place):
        try:
            result = verify_log(log, Path(certificate) if certificate else certificate_beside(log))
        except (OSError, ValueError) as error:
            raise MedflError(f"{certificate or log} cannot be read: {error}") from None
        damaged += bool(result.problems)
        write_data(f"{log}: {_verdict(result)}\n")
        write_data("".join(f"  {problem}\n" for problem in result.problems))
    if damaged:
        raise MedflError(f"{damaged} of the logs at {place} is not as it was written; each line above says where")


def _verdict(result: Verification) -> str:
    signed = f"{result.signed} of them signed by its kit" if result.signed else "none signed"
    return f"{result.entries} entries, {signed}, {'NOT ' if result.problems else ''}as they were written"


def _logs(place: str) -> list[Path]:
    from medfl.engines.remote.audit_log import AUDIT, END
    from medfl.engines.remote.party_files import PARTY

    here = Path(place)
    if here.is_file():
        return [here]
    parties = [here, here / PARTY, *sorted(here.glob("engine/*"))]
    for party in parties:
        if (party / END).is_file() and not (party / AUDIT).is_file():
            raise MedflError(f"{party / AUDIT} is gone, and {END} beside it says that it was there; put a copy back")
    logs = [party / AUDIT for party in parties if (party / AUDIT).is_file()]
    if not logs:
        raise MedflError(f"there is no {AUDIT} at {place}; name a kit, a party's folder in it, or a run with `engine`")
    return logs
