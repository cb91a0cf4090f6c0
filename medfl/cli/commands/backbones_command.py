"""The command that lists encoders to start from."""

from __future__ import annotations

from medfl.cli.commands.common import open_terminal


def backbones() -> None:
    """List encoders that pathology groups start from, with how `model.weights` names them, and their licences."""
    from medfl.model.known_backbones import KNOWN_BACKBONES

    words = {True: "yes", False: "no", None: "check"}
    columns = ["name", "model.weights", "features", "px", "mean", "pooling", "licence", "gated", "commercial", "note"]
    rows = []
    for row in KNOWN_BACKBONES:
        terms = [row.licence, words[row.gated], words[row.commercial]]
        input_ = [str(row.size), row.mean, row.pooling or "-"]
        rows.append([row.name, row.weights, str(row.dim), *input_, *terms, row.note])
    with open_terminal() as terminal:
        terminal.table(
            "Encoders; any other of timm's goes too, and local-dir:DIR takes a downloaded folder", columns, rows
        )
        terminal.say("Licences and access change: what the source of the weights says counts.")
