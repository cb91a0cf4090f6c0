"""The command that lists encoders to start from."""

from __future__ import annotations

from medfl.cli.commands.common import open_terminal


def backbones() -> None:
    """List encoders that pathology groups start from, with how `model.weights` names them, and their licences."""
    from medfl.model.known_backbones import KNOWN_BACKBONES

    words = {True: "yes", False: "no", None: "check"}
    columns = ["name", "model.weights", "features", "px", "mean", "pooling", "licence", "gated", "commercial", "note"]
    rows = []
    for known in KNOWN_BACKBONES:
        terms = [known.licence, words[known.gated], words[known.commercial]]
        input_ = [str(known.size), known.mean, known.pooling or "-"]
        rows.append([known.name, known.weights, str(known.dim), *input_, *terms, known.note])
    with open_terminal() as terminal:
        terminal.table(
            "Encoders; any other of timm's goes too, and local-dir:DIR takes a downloaded folder", columns, rows
        )
        terminal.say("Licences and access change: what the source of the weights says counts.")
