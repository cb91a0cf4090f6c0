"""What the commands share: their arguments, the terminal, and errors that name the file they are about."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer

from medfl.cli.standard_streams import complain
from medfl.errors import MedflError, install_extra
from medfl.plain_text import visible

if TYPE_CHECKING:
    from medfl.cli.terminal import Terminal
    from medfl.config import Adapt as AdaptSection

PipelineFile = Annotated[str, typer.Argument(metavar="PIPELINE", help="A pipeline file (YAML).")]
RunPath = Annotated[str, typer.Argument(metavar="RUN", help="A run folder.")]
ModelRef = Annotated[
    str, typer.Argument(metavar="MODEL", help="A run folder, an MLflow run id, or models:/name@alias.")
]
Adapt = Annotated[
    str | None,
    typer.Option(
        metavar="REMEDY",
        help="Also adapt the model to each hospital by unlabelled patches: normalise, batchnorm, class_mix, joined by "
        "+, or auto for what the run chose.",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. training.rounds=3 or method=[ecgr]."),
]


@contextlib.contextmanager
def about(file: str) -> Iterator[None]:
    """Errors about a pipeline name its file."""
    try:
        yield
    except MedflError as error:
        if visible(file) in str(error):
            raise
        raise type(error)(f"{file}: {error}") from None


def launcher() -> ModuleType:
    """`medfl.engines.nvflare.launch`. Raises MedflError where the extra it needs is not installed."""
    try:
        from medfl.engines.nvflare import launch
    except ImportError as error:
        if (error.name or "").split(".")[0] not in ("nvflare", "psutil"):
            raise
        raise MedflError(
            f"sites in processes of their own need NVIDIA FLARE; install it with {install_extra('nvflare')}"
        ) from None
    return launch


Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def confirm(terminal: Terminal, yes: bool) -> None:
    """Ask whether to go on. Raises MedflError where nobody says yes."""
    if yes:
        return
    if not terminal.asks:
        raise MedflError("nobody is there to ask, so nothing was removed; give --yes as well")
    if terminal.ask("Go on? yes or no", "no").lower() not in ("y", "yes"):
        raise MedflError("nothing was removed")


@contextlib.contextmanager
def open_terminal(go_on: str = "") -> Iterator[Terminal]:
    """The terminal, its progress bar removed whatever happens; an interrupt says how to go on, if there is a way."""
    from medfl.cli.terminal import Terminal

    terminal = Terminal()
    try:
        yield terminal
    except KeyboardInterrupt:
        terminal.close()
        terminal.say("")
        complain(f"medfl: interrupted{go_on and f'; {go_on}'}")
        raise SystemExit(130) from None
    finally:
        terminal.close()


def remedy_of(text: str | None) -> AdaptSection | None:
    """What --adapt asks for. Raises MedflError where that is no remedy."""
    from medfl.config.adapt_config import read_adapt

    try:
        return read_adapt(text) if text else None
    except ValueError as error:
        raise MedflError(f"--adapt {text}: {error}") from None
