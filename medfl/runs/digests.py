"""What the files of a run say of each other, so that one which was edited, exchanged or damaged is noticed.

`summary.json` holds `digests`: the SHA-256 (as `sha256sum` prints it) of the files that it belongs to, and under its
own name that of the rest of itself, written as JSON with sorted keys. `model.json` holds that of the weights, so that a
model is known without its run. The digests are no signatures: whoever writes all the files can write them as well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medfl.errors import MedflError

DIGESTS, OWN_DIGEST = "digests", "digest"
SUMMARY, WEIGHTS, MODEL = "summary.json", "model.safetensors", "model.json"
FILES = (WEIGHTS, MODEL, "rounds.jsonl", "privacy.jsonl", "curves.json", "allocation_summary.csv")
FIGURES = (SUMMARY, "rounds.jsonl", "privacy.jsonl", "curves.json")
"""Files that hold what was measured, and nothing that a model is made of."""


def file_digest(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def json_digest(value: Any) -> str:
    """SHA-256 of a value's JSON with sorted keys, as it is when it has been written and read, 64 hex digits."""
    return hashlib.sha256(json.dumps(json.loads(json.dumps(value)), sort_keys=True).encode()).hexdigest()


def sealed(summary: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A summary with the digests of the files beside it and its own. Raises OSError."""
    rest = {key: value for key, value in summary.items() if key != DIGESTS}
    files = {name: file_digest(folder / name) for name in FILES if (folder / name).is_file()}
    return rest | {DIGESTS: files | {SUMMARY: _own(rest, files)}}


def disagreements(summary: Mapping[str, Any], folder: Path) -> list[str] | None:
    """Names of the files that are not what the summary says they were, the summary itself among them; None where it
    says nothing, as before version 0.2. Raises OSError."""
    if DIGESTS not in summary:
        return None
    digests = summary[DIGESTS]
    if not isinstance(digests, dict):
        return [SUMMARY]
    files = {name: digest for name, digest in digests.items() if name in FILES}
    rest = {key: value for key, value in summary.items() if key != DIGESTS}
    bad = [] if digests == files | {SUMMARY: _own(rest, files)} else [SUMMARY]
    for name in FILES:
        path = folder / name
        if (file_digest(path) if path.is_file() else None) != files.get(name):
            bad.append(name)
    return bad


def check_files(summary: Mapping[str, Any], folder: Path, remeasured: bool = False) -> bool:
    """Whether the files of a finished run say of each other what they are; False where they say nothing.

    Args:
        summary: the folder's summary.json.
        folder: the run folder.
        remeasured: figures are measured anew, so that those on file may be other than they were.

    Raises:
        MedflError: a file that does not agree with the summary, or cannot be read.
    """
    try:
        bad = disagreements(summary, folder)
    except OSError as error:
        raise MedflError(f"{error.filename or folder} cannot be read: {error.strerror}") from None
    wrong = [name for name in bad or [] if not (remeasured and name in FIGURES)]
    if wrong:
        measured = all(name in FIGURES for name in wrong)
        anew = ", measure the figures anew with `medfl register --remeasure`" if measured else ""
        raise MedflError(
            f"{folder} holds {' and '.join(wrong)} as the run did not write it, by the digests in {SUMMARY}; restore "
            f"it from a copy{anew}, or make the result again with `medfl resume {folder}`"
        )
    return bad is not None


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """What a run folder of before version 0.2 leads to where its files are damaged becomes a sentence. Where the files
    say of each other what they are, they are what medfl wrote, and an error is one of medfl's own."""
    try:
        yield
    except MedflError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        try:
            whole = disagreements(json.loads((folder / SUMMARY).read_text(encoding="utf-8")), folder) == []
        except (OSError, ValueError, TypeError):
            whole = False
        if whole:
            raise
        raise MedflError(
            f"a file in {folder} is damaged or was edited: it does not hold what medfl writes ({type(error).__name__}: "
            f"{error}); restore the folder from a copy, or make its result again with `medfl resume {folder}`"
        ) from error


def check_weights(facts: Mapping[str, Any], folder: Path) -> None:
    """Raise MedflError unless the weights beside a model.json are those it was written for, as far as it says so."""
    if "weights" not in facts:
        return
    try:
        same = file_digest(folder / WEIGHTS) == facts["weights"]
    except OSError as error:
        raise MedflError(f"{folder / WEIGHTS} cannot be read: {error.strerror}") from None
    if not same:
        raise MedflError(
            f"{folder / WEIGHTS} holds other weights than those that {folder / MODEL} was written for; restore both "
            f"from a copy"
        )


def _own(rest: Mapping[str, Any], files: Mapping[str, str]) -> str:
    return json_digest([rest, files])
