"""The errors medfl shows to people: one sentence each, and the exit code that goes with it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from medfl.plain_text import visible

DISTRIBUTION = "medfl-pathology"  # what is installed; on the public package index, `medfl` is another project


class MedflError(Exception):
    """Something the user can mend. The message is one sentence naming file, key and remedy; exit code 2.

    As text it is one line without control characters, whatever names it quotes.
    """

    exit_code = 2

    def __str__(self) -> str:
        return visible(super().__str__())


class GateFailed(MedflError):
    """A registry gate or alias guard refused a model. The registry is untouched; exit code 3."""

    exit_code = 3


class RunFailed(MedflError):
    """A run could not go on, or came to no result that counts; what was computed is on disk; exit code 1."""

    exit_code = 1


class DriftAlarm(MedflError):
    """Monitoring finds patches unlike those that the model was measured on; all is written; exit code 4."""

    exit_code = 4


def nearest(word: str, words: Iterable[str], limit: int = 3) -> str:
    """Return ` Did you mean "x" or "y"?` for the closest known words, or an empty string."""
    matches = difflib.get_close_matches(str(word), list(words), n=limit, cutoff=0.5)
    if not matches:
        return ""
    quoted = [f'"{m}"' for m in matches]
    head = ", ".join(quoted[:-1])
    return f" Did you mean {head + ' or ' if head else ''}{quoted[-1]}?"


def install_extra(extra: str) -> str:
    """The commands that add an extra to the medfl that is installed, in words."""
    return f'`pip install "{DISTRIBUTION}[{extra}]"`, or `uv sync --extra {extra}` in a copy of the repository'
