"""`medfl doctor`: whether this machine, and a kit on it, are fit to take part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medfl.cli.commands.common import launcher, open_terminal
from medfl.errors import MedflError


def doctor(
    kit: Annotated[str | None, typer.Argument(metavar="[KIT]", help="A kit, to look at it and its server too.")] = None,
) -> None:
    """Look at Python, packages, device, disk, cache, MLflow and a kit; what is wrong is named with a remedy."""
    with open_terminal() as terminal:
        from medfl.pipeline.machine_check import check_machine

        seen: dict[str, bool] = {}
        for line in check_machine():
            terminal.say(str(line))
            seen[line.what] = line.passed
        if kit is not None:
            launcher()
            from medfl.engines.nvflare.join_check import check_kit

            for line in check_kit(Path(kit)):
                if line.what not in ("Python", "device"):  # stand above
                    terminal.say(str(line))
                    seen[f"kit {line.what}"] = line.passed
        if failed := [what for what, passed in seen.items() if not passed]:
            raise MedflError(f"{len(failed)} of {len(seen)} checks failed; each line above says what to do")
