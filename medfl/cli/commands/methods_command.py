"""The command that lists the methods."""

from __future__ import annotations

from medfl.cli.commands.common import open_terminal


def methods() -> None:
    """List the methods, with their parameters and what each may share a chain with."""
    from medfl.methods.core.method_table import method_table

    with open_terminal() as terminal:
        columns = ["name", "parameters", "what it does", "goes with"]
        terminal.table("Methods; an empty chain is FedAvg", columns, method_table())
        terminal.say(
            "In place of a federation: `baseline: local_only` (each site trains its own model) or `baseline: "
            "centralised` (the training data of all sites pooled in one place)"
        )
