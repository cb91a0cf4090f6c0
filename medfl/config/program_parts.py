"""What a program hands to a run beside its pipeline: patches in memory, a network, a loss. No file can hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PROGRAM = "program"
"""What a pipeline says in place of a part that a program hands over: `source: program`, `backbone: program:NAME`."""


@dataclass(frozen=True)
class ProgramParts:
    """The parts of a run that only the program at work holds.

    Attributes:
        patches: site -> its patches (`medfl.SitePatches`).
        network: an `nn.Module` in place of a timm backbone, or None.
        loss: a function of logits f32[N, C] and labels i64[N] in place of cross entropy, or None.
    """

    patches: Mapping[str, Any] = field(default_factory=dict)
    network: Any = None
    loss: Any = None


def program_name(part: object) -> str:
    """What a pipeline calls a network or a loss that a program hands over: `program:NAME`."""
    name = getattr(part, "__name__", "") or type(part).__name__
    return f"{PROGRAM}:{name}"


def is_program(text: str | None) -> bool:
    """Whether a value of a pipeline stands for a part that a program hands over."""
    return text is not None and text.partition(":")[0] == PROGRAM
