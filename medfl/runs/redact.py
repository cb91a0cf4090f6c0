"""What may leave for MLflow: every string that could name a path, a file or a patient becomes `<local>`.

The rule errs on the side of hiding: a word with a slash in a description is lost rather than a folder shown.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Mapping
from typing import Any

LOCAL = "<local>"
PATH_KEYS = ("root", "source_groups", "table", "slide_table", "checkpoint", "cache", "uri", "path", "file", "dir")
"""Keys of pipeline and site files whose values are paths, or addresses that may carry a password."""
PATIENT_KEYS = ("distinct_names",)
"""Keys whose values are names of patients."""
NAME_KEYS = ("classes", "supported_classes")
"""Keys of names that the pipeline gives out itself."""
WORDS = ("ignore", "filename")
"""Values of `source_groups` that are words and no paths."""

_FILE = r"png|jpe?g|tiff?|bmp|gif|webp|svs|ndpi|mrxs|dcm|npy|npz|csv|tsv|json|jsonl|ya?ml|txt|db|h5|pth?|safetensors"
_PATH = re.compile(rf"[/\\]|^~|\.(?:{_FILE})\b", re.IGNORECASE)
_HARMLESS = re.compile(r"^\W*(?:https?://\S+|doi:\S+|and/or|H/E|\d+/\d+)\W*$", re.IGNORECASE)
_REASONS = {
    "not finite": r"\bnot finite\b|\bnon-?finite\b|\bnan\b|\binf(inity)?\b",
    "another architecture": r"\bof architecture\b",
    "unusual length": r"\bhas length \S+ above the limit\b",
    "timed out": r"\btimed?[ -]?out\b",
    "out of memory": r"\bout ?of ?memory\b",
    "no data": r"\bno (training )?(data|patches)\b",
}


def without_credentials(address: str) -> str:
    """An address, or a sentence with addresses, without user and password: what may be kept, shown and logged."""
    bare = re.sub(r"//\S*@", "//", address)
    return re.sub(r"(?i)([?&;](?:[a-z_]*(?:password|passwd|pwd|token|secret|key)[a-z_]*)=)[^&;\s]*", r"\1", bare)


def scrub(value: Any, key: str = "") -> Any:
    """Copy a JSON-like value without its paths and without names of patients.

    Values under PATH_KEYS and PATIENT_KEYS, a site's own label names (`labels`, which are folder names) and what is
    told of `failures` are replaced by rule; every other string goes through `scrub_text`.
    """
    if isinstance(value, Mapping):
        if key == "labels" and value:
            return LOCAL
        failure = key == "failures"
        return {k: scrub(item, key if failure and k not in ("site", "phase") else str(k)) for k, item in value.items()}
    if key in PATIENT_KEYS and value:
        return LOCAL
    if key in NAME_KEYS:
        return value
    if isinstance(value, list | tuple):
        return [scrub(item, key) for item in value]
    if not isinstance(value, str):
        return value
    if key in PATH_KEYS and value not in WORDS:
        return LOCAL
    return reason_class(value) if key == "failures" else scrub_text(value)


def scrub_text(text: str) -> str:
    """Replace everything from the first to the last word that looks like part of a path.

    A path may hold spaces, so what stands between two such words is not trusted either.
    """
    words = text.split(" ")
    marked = [i for i, word in enumerate(words) if _PATH.search(word) and not _HARMLESS.match(word)]
    if not marked:
        return text
    return " ".join([*words[: marked[0]], LOCAL, *words[marked[-1] + 1 :]])


def reason_class(reason: str) -> str:
    """What kind of failure a reason tells of, in words of this module only: no free text leaves the run folder."""
    for kind, pattern in _REASONS.items():
        if re.search(pattern, reason, re.IGNORECASE):
            return kind
    for name in re.findall(r"\b[A-Z]\w*(?:Error|Exception)\b", reason):
        if hasattr(builtins, name):
            return str(name)
    return "failed"
