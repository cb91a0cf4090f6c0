"""The rounds of a run as they are read back: every line a record, every round once and in its place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from medfl.errors import MedflError
from medfl.metrics.record_types import RoundRecord
from medfl.runs.json_lines import RESTORE, read_json_lines

PARTS = {"round": int, "evaluated": bool, "counted": bool, "participants": list, "failures": list, "sites": dict}


def read_rounds(path: Path) -> list[RoundRecord]:
    """The records of a rounds.jsonl, none where there is no file. A torn last line does not count yet.

    Raises:
        MedflError: a line is damaged, holds no record, or is of another round than its place says.
    """
    records = read_json_lines(path)
    for place, record in enumerate(records):
        if problem := _problem(record, place):
            raise MedflError(f"{path}, line {place + 1}: {problem}; {RESTORE}")
    return [cast(RoundRecord, record) for record in records]


def _problem(record: Mapping[str, Any], place: int) -> str:
    """What is wrong with a record, or ""."""
    for key, kind in PARTS.items():
        if type(record.get(key)) is not kind:
            return f"`{key}` of a round is not there, or no {kind.__name__}"
    if record["round"] != place:
        return f"holds round {record['round']} in the place of round {place}"
    if not all(isinstance(name, str) for name in record["participants"]):
        return "`participants` are not all names"
    if not all(isinstance(lost, dict) and {"site", "reason"} <= lost.keys() for lost in record["failures"]):
        return "`failures` are not all of a site with a reason"
    for site, entry in record["sites"].items():
        figures = [entry.get(split, {}) for split in ("val", "test")] if isinstance(entry, dict) else [None]
        if not all(isinstance(part, dict) for part in figures) or "role" not in entry:
            return f"the entry of site {site} has no role, or figures that are none"
    if not isinstance(record.get("update"), dict | None):
        return "`update` is no mapping"
    return ""
